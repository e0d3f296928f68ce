"""What can go wrong with a server of this machine, for `doctor`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from stack.engines.checks import Findings, check, failed, ok, warning
from stack.engines.embedded import rights
from stack.engines.embedded.data import Data
from stack.engines.embedded.home import Home
from stack.ground import disk
from stack.ground.talk import human
from stack.server import pgdata
from stack.server.programs import MAJOR, installed

SHARED_MEMORY = 64 << 20
"""Bytes, which parallel queries outgrow (docker-library/postgres#416)."""


class Health:
    """The checks of one checkout's server."""

    def __init__(self, home: Home, data: Data, check_ports: Callable[[], None], instead: str) -> None:
        self._home, self._data, self._check_ports = home, data, check_ports
        self._instead = instead
        """Why it is not Docker, when nobody has chosen."""

    @check("env file")
    def platform(self) -> Findings:
        """PostgreSQL's programs are here, or can be fetched, and run as this user.

        The message names what is missing.
        """
        found = f"embedded engine: {self._platform()}"
        if self._instead and not self._home.directory.exists():
            yield warning(
                f"{found}, without Convex: {self._instead}", "Or set STACK_ENGINE=embedded, if that is what you want."
            )
        else:
            yield ok(found)

    @check("address")
    def ports(self) -> Findings:
        """The port is free or held by this stack's server, on ::1 (`localhost`) too.

        Stop who holds it, or `invoke init --isolated` for another port.
        """
        self._check_ports()
        yield ok("each is free, or this stack's")

    @check("directories")
    def data_version(self) -> Findings:
        """The data was made by the major version of PostgreSQL that is started.

        Dump with the old and load with the new; the message has the commands.
        """
        there = self._data.read(pgdata.VERSION)
        version = pgdata.made_by(there)
        if version and version != str(MAJOR):
            why, cure = other_major(self._home, version)
            yield failed(f"{self._home.directory} cannot be used: {why}.", cure)
        elif there and not version:
            yield ok(f"{pgdata.lack(pgdata.VERSION, there)}, so nothing tells; see the next line")
        else:
            yield ok(f"made by PostgreSQL {version}" if version else "there is no data yet")

    @check("address")
    def shared_memory(self) -> Findings:
        """The machine has more shared memory (`/dev/shm`) free than parallel queries outgrow at once.

        Make room in `/dev/shm`.
        """
        shared = Path("/dev/shm")  # noqa: S108 - PostgreSQL's choice
        if not shared.is_dir():
            return
        size = disk.free(shared)
        if size <= SHARED_MEMORY:
            yield warning(f"The server has {human(size)} of shared memory for parallel queries.", "Make room in it.")
        else:
            yield ok(human(size))

    def _platform(self) -> str:
        """Return where the programs are; raises StackError when they cannot be run as this user."""
        place = installed(self._home.root, self._home.settings.bin_dir)
        if not place:
            return f"PostgreSQL {MAJOR}, to be fetched by `invoke up`"
        data = self._home.directory if self._home.directory.is_dir() else self._home.root
        rights.way(self._home.account, data, place.resolve())
        account = self._home.account
        return f"PostgreSQL {MAJOR} in {place}{f', as the account {account.name}' if account else ''}"


def other_major(home: Home, made_by: str) -> tuple[str, str]:
    """Return why the programs do not run on data of another major version, and the way from old to new."""
    old = shlex.join(["-D", str(home.directory)])
    return (
        f"the data was made by PostgreSQL {made_by}, and the stack runs {MAJOR}",
        f"Nothing is lost. Dump with the old and load with the new: with the programs of {made_by}"
        f" `pg_ctl {old} -o '-p 54321 -k /tmp' -w start`,"
        f" `pg_dump -Fc -h /tmp -p 54321 -U {shlex.quote(home.settings.user)} -f old.dump"
        f" {shlex.quote(home.settings.database)}`, `pg_ctl {old} stop`; then `invoke reset-data`, `invoke up`,"
        f" `invoke load old.dump`. {pgdata.ONE_DATABASE}",
    )
