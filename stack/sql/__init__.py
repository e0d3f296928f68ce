"""Files of SQL and dumps: opened, told apart, and read as psql reads them. It knows of no server."""
