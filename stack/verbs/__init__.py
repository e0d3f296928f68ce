"""What the commands do, whichever engine there is."""
