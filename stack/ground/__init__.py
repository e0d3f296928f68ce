"""What knows of no database: programs, words, files, settings, ports, the lock."""
