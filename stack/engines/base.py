"""What an engine is: three methods that each has, a few that refuse in its one sentence, facets that may be absent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from stack.engines.backend import Convex
from stack.engines.copies import Copies
from stack.ground.errors import Refused, StackError
from stack.ground.run import Command
from stack.ground.settings import Settings
from stack.ground.volume import Place
from stack.server.address import Endpoint, Running
from stack.server.identity import Identity
from stack.server.pgdata import Contents
from stack.server.processes import Holder

if TYPE_CHECKING:
    from stack.engines.checks import Check

Facet = TypeVar("Facet")
NO_OTHER: Mapping[str, str] = MappingProxyType({})
"""No other database than the configured one."""


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
    data: Place | None = None
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


class Start(Protocol):
    """A start that is under way."""

    def go_on(self) -> bool:
        """Take the next step, if there is one, and return whether everything was started. Raises StackError."""

    def finish(self) -> None:
        """Wait until everything was started."""

    def leave(self) -> None:
        """Stop starting; what runs keeps running."""


class Images(Protocol):
    """What has to be fetched before a start."""

    def missing(self) -> list[str]:
        """Return what `start` needs and this machine does not have."""

    def pull(self, *, missing: bool = False) -> None:
        """Fetch everything, or only what is missing. Raises StackError."""


class Data(Protocol):
    """The directories that hold the services' state, and the files of the cluster."""

    texts: Mapping[str, str]
    """The server's own text files without which it does not start, and what is in them when they are made."""

    def directories(self) -> dict[str, Path]:
        """Return them by the name of the leaf in data/."""

    def stores(self) -> dict[str, Place]:
        """Return everything that a wipe may delete, by the name of the leaf: those, and volumes of this checkout's."""

    def volumes(self) -> dict[str, str]:
        """Return the services that keep their state where nothing here can delete it, as words, by leaf."""

    def place(self) -> Place:
        """Return where the cluster is, or would be."""

    def there(self, place: Place) -> bool:
        """Return whether a directory or a volume exists."""

    def room(self, place: Place) -> int | None:
        """Return the bytes that are free on the disk of a directory or a volume; None when nobody can tell."""

    def holders(self, path: Place) -> list[Holder]:
        """Return who else is at work on a directory or a volume right now."""

    def size(self, path: Place) -> int | None:
        """Return the bytes in a directory that the user may not read, or a volume; None when nobody can tell."""

    def read(self, *names: str) -> dict[str, str]:
        """Return those of the named files in the cluster that exist, and under "" a listing; nothing without data."""

    def contents(self) -> Contents | None:
        """Return what is in the cluster's directory; None when nobody here can tell."""

    def append(self, name: str, text: str, *, instead: bool = False) -> None:
        """Add lines to a text file of the cluster, or make it of them; a server that runs reads it anew.

        `instead` of what is in it, which is then kept in NAME.damaged.
        """

    def admits(self, rule: Sequence[str]) -> bool:
        """Return whether a `host` line of pg_hba.conf may let in who comes from this machine."""

    def closed(self, path: Path) -> tuple[str, str] | None:
        """Return why the server may not use a directory, and the cure; None when it may."""

    def unusable(self) -> tuple[str, str] | None:
        """Return why no directory can be used, by what they are called, and the cure; None when they can."""

    def check_deletable(self, path: Place) -> None:
        """Raise Refused when a directory's files are on another machine, or a volume is not this checkout's."""

    def delete(self, path: Place) -> None:
        """Delete what the user may not delete in a directory, or a volume. Raises StackError."""


class Inside(Protocol):
    """The engine's own server, seen from inside: without its address and its password."""

    def running(self) -> Running:
        """Return how the server that runs now is reached; raise StackError when none does."""

    def identifier(self, server: str = "", *, surely: bool = False) -> Identity:
        """Return what tells the server with an id, else the one that runs, from all others.

        `surely` is the slower way, to be taken before anybody is called a stranger. Raises StackError when nobody can
        tell.
        """

    def peer(self, user: str, database: str) -> Command:
        """Return the command line of a psql that reads its SQL from stdin and needs no password, as any user."""

    def titles(self) -> list[str]:
        """Return what the processes of the running server call themselves, one for each session among them."""


class Engine(ABC):
    """Starts and stops the services and says how to reach them. Nothing above knows which engine it has.

    A new engine is one class, and one line in `choose`.
    """

    name: ClassVar[str]
    sees_files: ClassVar[bool] = True
    """Whether a client program that it starts sees the user's files, or only its stdin."""
    images: Images | None = None
    data: Data | None = None
    inside: Inside | None = None
    convex: Convex | None = None
    copies: Copies | None = None

    def __init__(self, settings: Settings, root: Path) -> None:
        self.settings = settings
        self.root = root

    @property
    @abstractmethod
    def lacks(self) -> str:
        """The sentence for all that it does not have."""

    # -- what every engine has ----------------------------------------------------------------------------

    @abstractmethod
    def services(self) -> list[Service]:
        """Return every service as it is now."""

    @abstractmethod
    def endpoint(self) -> Endpoint | None:
        """Return the database's address; None when there is no database."""

    @abstractmethod
    def client(
        self, *argv: str, stdin: bool = False, terminal: bool = False, name: str = "",
        into: Mapping[str, str] = NO_OTHER,
    ) -> Command:  # fmt: skip
        """Return the command line of a PostgreSQL client program that logs in to the database, under a name.

        `into` holds libpq's parameters for another database of the server.
        """

    # -- what one may have that runs its services ---------------------------------------------------------

    def check_start(self, freed: int | None = None) -> None:
        """Raise StackError for what would fail a start and can be seen before it.

        `freed` is how many bytes of data are deleted before that start; None when none are.
        """
        raise Refused(self.lacks)

    def start(self) -> Start:
        """Begin to start everything; return at once."""
        raise Refused(self.lacks)

    def stop(self) -> None:
        """Stop everything; data stays."""
        raise Refused(self.lacks)

    def restart(self, service: str = "") -> None:
        """Restart one service, or all."""
        raise Refused(self.lacks)

    def logs(self, service: str = "", *, follow: bool = False, tail: str = "all") -> list[str]:
        """Return the command line that shows the logs."""
        raise Refused(self.lacks)

    # -- what says nothing where there is nothing ---------------------------------------------------------

    def addresses(self) -> list[str]:
        """Return the addresses that the database's port listens on, as far as they are ours to choose."""
        return []

    def page(self, service: str, port: int) -> str:
        """Return where a browser reaches a service's port; empty when it does not."""
        return ""

    def last_words(self, service: str, lines: int = 15) -> str:
        """Return the last log lines of a service."""
        return ""

    def resume(self) -> None:  # noqa: B027 - most cannot tell that something is paused
        """Let services go on that somebody has paused; nothing when none is."""

    def release(self) -> tuple[str, str]:
        """Return the version of PostgreSQL that a start brings, empty when nobody can tell, and how to have a newer."""
        return "", ""

    def check_seen(self, services: list[Service]) -> None:  # noqa: B027 - most have nothing to say
        """Raise StackError when one of these runs and its files are not in the directory on this machine."""

    def checks(self) -> list[Check]:
        """Return what `doctor` looks at on this engine alone."""
        return []


def need(facet: Facet | None, engine: Engine) -> Facet:
    """Return a facet of an engine. Raises Refused with the engine's sentence when it is absent."""
    if facet is None:
        raise Refused(engine.lacks)
    return facet
