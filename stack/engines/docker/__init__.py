"""The engine that runs the Compose files."""
