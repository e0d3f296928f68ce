"""What an engine reports: its services, and the address of its database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlencode

from stack.process import StackError


@dataclass(frozen=True)
class Service:
    """One service as it is now."""

    name: str
    state: str = "not started"
    """not started, created, running, restarting, paused, exited or dead."""
    health: str = ""
    """healthy, starting, unhealthy, or empty: the service has no health check."""
    exit_code: int = 0
    restarts: int = 0
    """How often it was restarted after a crash since it was last started on purpose."""
    output: str = ""
    """What the last health check of this run said."""
    image: str = ""
    url: str = ""
    data: Path | None = None
    one_shot: bool = False
    """It is never restarted, so a clean exit is its success."""

    @property
    def ready(self) -> bool:
        """True when it does its work, or has done it."""
        if self.one_shot and self.state == "exited":
            return self.exit_code == 0
        return self.state == "running" and self.health in ("healthy", "")

    @property
    def just_starting(self) -> bool:
        """True when it has not been ready yet, and has not ended either since it was started on purpose."""
        return self.state == "running" and self.health == "starting" and not self.restarts

    @property
    def ended(self) -> bool:
        """True when it has stopped, and waiting longer will not change that."""
        return self.state in ("exited", "dead") and not self.ready

    def __str__(self) -> str:
        return f"{self.state}, {self.health}" if self.health and self.state == "running" else self.state


def paused(service: str) -> StackError:
    """Return what to say when a service is asked for something while it is paused."""
    return StackError(f"{service} is paused, so it answers nobody.", cure="Type `invoke up`, which lets it go on.")


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
        hosts = [f"[{host}]" if ":" in host else host for host in self.host.split(",")]
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
    directory: Path
    id: str
    """The engine's name for it: a container's id, or a process's."""


LIBPQ = (
    "PGCHANNELBINDING", "PGDATABASE", "PGGSSENCMODE", "PGHOST", "PGHOSTADDR", "PGOPTIONS", "PGPASSFILE", "PGPASSWORD",
    "PGPORT", "PGREQUIREAUTH", "PGREQUIRESSL", "PGSERVICE", "PGSERVICEFILE", "PGSSLCERT", "PGSSLKEY", "PGSSLMODE",
    "PGSSLNEGOTIATION", "PGSSLROOTCERT", "PGTARGETSESSIONATTRS", "PGUSER",
)  # fmt: skip
"""Variables by which a user's shell could lead libpq to another server than this stack's."""


def conninfo(parameters: Mapping[str, str]) -> str:
    """Return libpq's keyword/value connection string."""
    quoted = {name: value.replace("\\", "\\\\").replace("'", "\\'") for name, value in parameters.items() if value}
    return " ".join(f"{name}='{value}'" for name, value in quoted.items())


def log_in(argv: Sequence[str], parameters: Mapping[str, str]) -> list[str]:
    """Return a client program's options that say where the database is.

    An explicit connection string wins over whatever PGHOST or PGSERVICE the user's shell has. pg_restore gets none
    when it only turns a dump into SQL.
    """
    return [] if argv[0] == "pg_restore" and "-f" in argv else ["-d", conninfo(parameters)]


class Command(NamedTuple):
    """A program to start, and what to change in its environment (an empty value: take it out).

    Passwords are never in `argv`.
    """

    argv: list[str]
    env: dict[str, str]
