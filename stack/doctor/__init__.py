"""Everything that is known to go wrong, one function per check."""
