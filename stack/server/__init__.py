"""A PostgreSQL server, whoever runs it: its address, its sessions, its databases, its programs and files."""
