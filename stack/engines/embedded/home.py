"""Where an embedded server lives: its programs, its account, its directories and command lines."""

from __future__ import annotations

import os
import shlex
import stat
import tempfile
import zlib
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from stack.engines.embedded import rights
from stack.ground.errors import StackError
from stack.ground.settings import Settings
from stack.server import pgdata
from stack.server.programs import server_programs

SOCKET_PATH_LIMIT = 103
"""Bytes that fit the path of a Unix socket everywhere: sun_path has 104 on macOS, 108 on Linux."""


class Home:
    """Where the embedded server of one checkout lives."""

    def __init__(self, settings: Settings, root: Path) -> None:
        self.settings = settings
        self.root = root
        self.directory = root / "data" / "embedded"
        self.log = self.directory / "server.log"

    @cached_property
    def programs(self) -> Path:
        """Where initdb, postgres and psql are; installs them when they are nowhere."""
        return server_programs(self.root, self.settings.bin_dir)

    @cached_property
    def account(self) -> rights.Account | None:
        """Whom root runs the server as; None when it is this user."""
        return rights.account(self.directory, self.root)

    @property
    def uid(self) -> int:
        """As whom the server runs."""
        return self.account.uid if self.account else os.geteuid()

    @cached_property
    def socket_directory(self) -> Path:
        """A directory that only the server's user may enter, whose name a client can be given as a host.

        That is short enough for a socket in it, and UTF-8 for psycopg; libpq takes a comma for the end of a host.
        """
        path = os.fsencode(self.directory / f".s.PGSQL.{self.port}")
        with suppress(UnicodeDecodeError):
            if len(path) <= SOCKET_PATH_LIMIT and "," not in path.decode():
                return self.directory
        mark = zlib.crc32(os.fsencode(self.root))
        return Path(tempfile.gettempdir(), f"stack-{self.uid}-{mark:08x}")

    def initdb(self, directory: Path, password_file: Path) -> list[str]:
        """Return the command line that makes a cluster like the container's."""
        return [
            str(self.programs / "initdb"), "--pgdata", str(directory), "--username", self.settings.user,
            "--pwfile", str(password_file), "--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8",
            "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--data-checksums",
        ]  # fmt: skip

    def server_argv(self) -> list[str]:
        """Return the command line of the server."""
        options = {
            "listen_addresses": self.settings.bind_address,
            "port": str(self.port),
            "unix_socket_directories": '"' + str(self.socket_directory).replace('"', '""') + '"',
            "unix_socket_permissions": "0700",
            "cluster_name": self.settings.project,
        }
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return [str(self.programs / "postgres"), "-D", str(self.directory), *settings]

    def read(self, *names: str) -> dict[str, str]:
        """Return files of the cluster as `pgdata.read` does; raises PermissionError when it is another user's."""
        return pgdata.read(self.directory, *names)

    def contents(self) -> pgdata.Contents | None:
        """Return what is in the cluster's directory; None when it is another user's."""
        try:
            return pgdata.contents(self.directory)
        except PermissionError:
            return None

    @property
    def port(self) -> int:
        """The TCP port that the settings name."""
        return self.settings.ports["POSTGRES_PORT"]

    def text(self, name: str) -> str:
        """Return a text file of the cluster, empty when there is none. Raises StackError when it cannot be read."""
        try:
            return self.read(name).get(name, "")
        except OSError as error:
            raise StackError(
                f"{error.filename} cannot be read: {error.strerror}. Nothing was started.",
                cure=f"Type `chmod u+rw {shlex.quote(str(error.filename))}` if it is yours, then `invoke up`.",
            ) from None

    def way_to(self, data: Path) -> rights.Way:
        """Return how a program of PostgreSQL's is started on a directory, as whom. Raises StackError."""
        return rights.way(self.account, data, self.programs.resolve())

    def way(self, *, ask: bool = True) -> rights.Way:
        """Return how the server is started, as whom; raises StackError when it cannot be, which it may have to ask."""
        programs = self.programs.resolve()
        return rights.way(self.account, self.directory, programs, self.socket_directory, log=self.log, ask=ask)

    def no_log(self, why: str) -> StackError:
        """Return what to say of a log that is of no use, and the cure."""
        place = shlex.quote(str(self.log))
        return StackError(
            f"The server's log {self.log} {why}.",
            cure=f"Type `mv {place} {shlex.quote(f'{self.log}.former')}`, then `invoke up`.",
        )


def append(path: Path, text: str) -> None:
    """Add lines to a file in a server's directory, or make it of them, for the directory's owner. Raises StackError.

    The server may have put a link or a pipe in its place: root would write to where that leads, or wait for ever.
    """
    why = "it is no file of its own"
    try:
        number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        with open(number, "a", encoding="utf-8") as file:  # noqa: PTH123 - as it was opened
            facts, owner = os.fstat(number), path.parent.stat()
            anothers = facts.st_uid != owner.st_uid
            if stat.S_ISREG(facts.st_mode) and not (anothers and facts.st_nlink > 1):
                if anothers:
                    os.fchown(number, owner.st_uid, owner.st_gid)
                file.write(f"{text}\n")
                return
    except OSError as error:
        why = f"{error.strerror}"
    raise StackError(f"{path} could not be written: {why}.", cure="Look at what is there.")


def hint(said: str) -> str:
    """Return what to say before words of PostgreSQL's that do not tell their reason."""
    if "could not look up effective user ID" in said:
        return "PostgreSQL does not run for a user id that has no account: no line in /etc/passwd. "
    return ""
