"""The engine that runs PostgreSQL as a process of this machine."""
