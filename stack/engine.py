"""What an engine is, which one this checkout gets, and that one command at a time changes it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from types import MappingProxyType
from typing import Protocol

from stack import places, settings
from stack.compose import Docker
from stack.guards import Holder
from stack.identity import Identity
from stack.places import Contents
from stack.process import StackError
from stack.service import Command, Endpoint, Running, Service
from stack.talk import say


class Start(Protocol):
    """A start that is under way."""

    def done(self) -> bool:
        """Return whether everything was started; raise StackError when it cannot be."""

    def finish(self) -> None:
        """Wait until it has ended."""

    def abandon(self) -> None:
        """Stop starting; what runs keeps running."""


class Engine(Protocol):
    """Starts and stops the services and says how to reach them. Nothing above knows which engine it has."""

    name: str
    sees_files: bool
    """Whether a client program that it starts sees the user's files, or only its stdin."""
    root: Path
    settings: settings.Settings
    texts: Mapping[str, str]
    """The server's own text files without which it does not start, and what is in them when they are made."""

    def check_start(self, freed: int | None = None) -> None:
        """Raise StackError for what would fail a start and can be seen before it.

        `freed` is how many bytes of data are deleted before that start; None when none are.
        """

    def start(self) -> Start:
        """Begin to start everything; return at once."""

    def resume(self) -> None:
        """Let services go on that somebody has paused; nothing when none is."""

    def stop(self) -> None:
        """Stop everything; data stays."""

    def restart(self, service: str = "") -> None:
        """Restart one service, or all."""

    def missing_images(self) -> list[str]:
        """Return what must be pulled before `start` can succeed."""

    def pull(self, *, missing: bool = False) -> None:
        """Fetch the images, or only the missing ones."""

    def services(self) -> list[Service]:
        """Return every service as it is now."""

    def endpoint(self) -> Endpoint | None:
        """Return the database's address; None when there is no database."""

    def addresses(self) -> list[str]:
        """Return the addresses that the database's port listens on."""

    def running(self, service: str) -> str:
        """Return the id under which a service runs; raise StackError when it does not."""

    def identifier(self, server: str, *, surely: bool = False) -> Identity:
        """Return what tells a server of ours (see `running`) from all others, as seen from inside.

        `surely` is the slower way, to be taken before anybody is called a stranger. Raises StackError when nobody can
        tell.
        """

    def database(self) -> Running:
        """Return how the server that runs now is reached; raise StackError when none does."""

    def url(self, service: str, target: int) -> str:
        """Return where a browser reaches a service's port; empty when it does not."""

    def client(
        self,
        *argv: str,
        stdin: bool = False,
        terminal: bool = False,
        name: str = "",
        into: Mapping[str, str] = MappingProxyType({}),
    ) -> Command:
        """Return the command line of a PostgreSQL client program that logs in to the database, under a name.

        `into` holds libpq's parameters for another database of the server.
        """  # fmt: skip

    def logs(self, service: str = "", *, follow: bool = False, tail: str = "all") -> list[str]:
        """Return the command line that shows the logs."""

    def last_words(self, service: str, lines: int = 15) -> str:
        """Return the last log lines of a service."""

    def trusted(self, user: str, database: str) -> Command:
        """Return the command line of a psql that reads its SQL from stdin and needs no password, as any user."""

    def platform(self) -> str:
        """Return what the engine runs on; raise StackError when that does not answer or is too old."""

    def check_machine(self) -> None:
        """Raise Refused when the services would run on another machine."""

    def unobtainable(self, image: str) -> str:
        """Return why an image cannot be pulled; empty when it can."""

    def check_name(self) -> None:
        """Raise Refused when the project's name belongs to another checkout."""

    def check_ports(self) -> None:
        """Raise StackError when a port is taken by anything but this stack, naming the holder."""

    def read(self, *names: str) -> dict[str, str]:
        """Return those of the named files in the cluster that exist, and under "" a listing; nothing without data."""

    def contents(self) -> Contents | None:
        """Return what is in the cluster's directory; None when nobody here can tell."""

    def append(self, name: str, text: str, *, instead: bool = False) -> None:
        """Add lines to a text file of the cluster, or make it of them; a server that runs reads it anew.

        `instead` of what is in it, which is then kept in NAME.damaged.
        """

    def titles(self) -> list[str]:
        """Return what the processes of the running server call themselves, one for each session among them."""

    def major(self) -> int:
        """Return the major version of PostgreSQL that would be started; 0 when nobody can tell."""

    def other_major(self, made_by: str) -> tuple[str, str]:
        """Return why that version does not run on data of another one, and the way from old to new."""

    def shared_memory(self) -> int | None:
        """Return the bytes of shared memory that the server has left; None when nobody can tell."""

    def admin_key(self) -> str:
        """Return a new Convex admin key."""

    def directories(self) -> dict[str, Path]:
        """Return the directories that hold the services' state, by name."""

    def volumes(self) -> dict[str, str]:
        """Return the services that keep their state where nothing here can delete it, as words, by name."""

    def holders(self, path: Path) -> list[Holder]:
        """Return who else is at work on a directory right now."""

    def check_seen(self, services: list[Service]) -> None:
        """Raise StackError when one of these runs and its files are not in the directory on this machine."""

    def check_deletable(self, path: Path) -> None:
        """Raise Refused when a directory's files are on another machine, under the same name."""

    def disk_usage(self, path: Path) -> int | None:
        """Return the bytes in a directory that the user may not read; None when nobody can tell."""

    def delete(self, path: Path) -> None:
        """Delete what the user may not delete in a directory."""


def choose(root: Path = settings.ROOT, layers: str | None = None) -> Engine:
    """Return the engine of the checkout at `root`.

    With STACK_ENGINE=auto that is the engine whose data is here; with the data of none or of both it is Docker if
    that answers, else the embedded one. DATABASE_URL alone chooses nothing.
    Raises Refused when a setting cannot be used, StackError when there is data of Docker's and Docker does not answer.
    """
    found = settings.load(root, layers=layers)
    name = _automatic(root, found) if found.engine == "auto" else found.engine
    if name == "embedded":
        from stack.embedded import Embedded

        return Embedded(found, root)
    if name == "external":
        from stack.external import External

        return External(found, root)
    return Docker(found, root)


def _automatic(root: Path, found: settings.Settings) -> str:
    containers = any(places.has_data(root / "data" / name) for name in ("pg", "convex"))
    embedded = places.has_data(root / "data" / "embedded")
    if embedded != containers:
        return "embedded" if embedded else "docker"  # Docker says so itself when it does not answer
    why_not = Docker(found, root).why_not()
    if why_not and containers:
        raise StackError(
            f"{why_not}\nThis checkout has data of both engines, so the embedded one is not started in its place. Start"
            " Docker, or set STACK_ENGINE=embedded."
        )
    if why_not:
        say("Docker does not answer here: PostgreSQL 17 runs without it, and there is no Convex (embedded engine).")
    return "embedded" if why_not else "docker"


@contextmanager
def exclusive(root: Path = settings.ROOT, timeout: float = 60) -> Iterator[None]:
    """Hold this checkout's lock: what changes the stack runs one at a time.

    Waits `timeout` seconds for another command to end, then raises StackError. The kernel frees the lock
    of a process that dies.
    """
    from filelock import FileLock, Timeout

    try:
        (root / "data").mkdir(exist_ok=True)
    except OSError as error:
        raise StackError(
            f"The directory {root / 'data'} cannot be made: {error.strerror}. Nothing was done. Look at what is there."
        ) from None
    _own_lock(root / "data" / ".lock")
    lock = FileLock(root / "data" / ".lock", mode=0o600)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say("Another command is at work on this stack; waiting for it to end.")
            lock.acquire(timeout=timeout)
    except Timeout:
        raise StackError(
            f"Another command has been at work on this stack for {timeout:g} s, so nothing was done. Wait until it"
            " ends, or end it; then type the command again."
        ) from None
    except PermissionError:
        raise StackError(_not_ours(Path(lock.lock_file))) from None
    except OSError as error:
        raise StackError(
            f"{lock.lock_file}, by which one command at a time changes this stack, cannot be locked: {error.strerror}."
            " Nothing was done. Look at what is there."
        ) from None
    _own_lock(Path(lock.lock_file))
    try:
        yield
    finally:
        lock.release()


def _own_lock(file: Path) -> None:
    """See to it that nobody but the owner of `data/` can hold the lock; root, who may have made it, always can."""
    me = os.geteuid()
    with suppress(OSError):
        there = file.lstat()
        if stat.S_ISREG(there.st_mode) and me in (0, there.st_uid):
            if me == there.st_uid == 0:
                owner = file.parent.stat()
                os.chown(file, owner.st_uid, owner.st_gid)
            if there.st_mode & 0o777 != 0o600:
                file.chmod(0o600)


def _not_ours(file: Path) -> str:
    """Return what to say and type when the lock may not be opened, or its folder not be written."""
    place = file if os.path.lexists(file) else file.parent
    me, owner = _name(os.geteuid()), _name(place.stat().st_uid)
    if me == owner:
        return f"{place} is yours, and may not be written. Nothing was done. Type `chmod u+rwX {quote(str(place))}`."
    return (
        f"{place} belongs to {owner}, and you are {me}, so nothing was done. If this checkout is yours, type"
        f" `sudo chown {me} {quote(str(place))}`, then the command again; else use a checkout of your own."
    )


def _name(user: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:  # one without a name
        return str(user)
