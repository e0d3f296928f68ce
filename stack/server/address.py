"""Where a database is and how one says so to libpq."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote, urlencode

from stack.ground.volume import Place

LIBPQ = (
    "PGCHANNELBINDING", "PGDATABASE", "PGGSSENCMODE", "PGHOST", "PGHOSTADDR", "PGOPTIONS", "PGPASSFILE", "PGPASSWORD",
    "PGPORT", "PGREQUIREAUTH", "PGREQUIRESSL", "PGSERVICE", "PGSERVICEFILE", "PGSSLCERT", "PGSSLKEY", "PGSSLMODE",
    "PGSSLNEGOTIATION", "PGSSLROOTCERT", "PGTARGETSESSIONATTRS", "PGUSER",
)  # fmt: skip
"""Variables by which a user's shell could lead libpq to another server than this stack's."""


@dataclass(frozen=True)
class Endpoint:
    """A database and how to log in to it from the host."""

    host: str
    port: int | str
    """Like the host, a list with commas where there are several."""
    user: str
    password: str = field(repr=False)
    database: str
    options: Mapping[str, str] = field(default_factory=dict)
    """Further libpq parameters, such as sslmode."""
    ours: bool = True
    """False for a server that somebody else runs: there the user's own PGSSLROOTCERT and the like count."""

    def url(self, *, masked: bool = True) -> str:
        """Return the libpq connection URI; the password is shown only when that is asked for."""
        user, password, database = (quote(part, safe="") for part in (self.user, self.password, self.database))
        options = urlencode(self.options, quote_via=quote)
        hosts = [
            f"[{host}]" if ":" in host and "/" not in host else quote(host, safe="") for host in self.host.split(",")
        ]
        ports = str(self.port).split(",")
        where = ",".join(f"{host}:{port}" for host, port in zip(hosts, ports * len(hosts), strict=False))
        login = f"{user}:{'********' if masked else password}" if password else user
        return f"postgresql://{login}@{where}/{database}{'?' * bool(options)}{options}"

    def parameters(self) -> dict[str, str]:
        """Return libpq's connection parameters."""
        basic = {"host": self.host, "port": str(self.port), "user": self.user, "password": self.password}
        return {**basic, "dbname": self.database, **self.options}


class Running(NamedTuple):
    """The database's server as it runs now: how its administrator logs in, where its files are, and what runs it."""

    endpoint: Endpoint
    directory: Place
    id: str
    """The engine's name for it: a container's id, or a process's."""


def conninfo(parameters: Mapping[str, str]) -> str:
    """Return libpq's keyword/value connection string."""
    quoted = {name: value.replace("\\", "\\\\").replace("'", "\\'") for name, value in parameters.items() if value}
    return " ".join(f"{name}='{value}'" for name, value in quoted.items())


def client_options(argv: Sequence[str], parameters: Mapping[str, str]) -> list[str]:
    """Return a client program's options that say where the database is.

    An explicit connection string wins over whatever PGHOST or PGSERVICE the user's shell has. pg_restore gets none
    when it only turns a dump into SQL.
    """
    return [] if argv[0] == "pg_restore" and "-f" in argv else ["-d", conninfo(parameters)]
