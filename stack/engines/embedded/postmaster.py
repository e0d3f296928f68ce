"""The server's process: started, found again, and told from others."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
import time
from pathlib import Path

from stack.engines.base import paused
from stack.engines.embedded import rights, shutdown
from stack.engines.embedded.home import Home, hint
from stack.ground import regular
from stack.ground.catalog import POSTGRES
from stack.ground.errors import Refused, StackError
from stack.ground.run import start

PATIENCE = 5.0
"""Seconds in which the sessions of a server that was killed have noticed it."""


class Postmaster:
    """The server of a home."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.child: subprocess.Popen[bytes] | None = None
        self._began = 0

    def first_words(self) -> str:
        """Return what the server that this process has started has said."""
        return shutdown.logged(self.home.log, self._began).strip()

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the server's process."""
        if self.child:
            self.child.wait()  # one that was killed is buried
        self._make_socket_directory()
        self._clear_stale_lock()
        if self.home.log.exists() and self.home.log.stat().st_size > 10_000_000:
            with contextlib.suppress(OSError):  # then it goes on growing
                self.home.log.replace(self.home.log.with_suffix(".log.1"))
        self._began = self.home.log.stat().st_size if self.home.log.exists() else 0
        way = self.home.way(ask=False)
        if not self.home.account:
            try:
                if self.home.log.exists() and not self.home.log.is_file():
                    raise self.home.no_log("is no file")
                self.home.log.open("ab").close()
            except OSError as error:
                raise self.home.no_log(f"cannot be written: {error.strerror}") from None
        # The log is opened with the server's rights: in its directory it may have put a link in the log's place.
        logged = [*way.prefix, "sh", "-c", 'log=$1; shift; exec "$@" >>"$log" 2>&1', "sh", str(self.home.log)]
        try:
            self.child = start([*logged, *self.home.server_argv()], way.env, rights=way.rights, outlives=Path("/"))
        except OSError as error:
            if self.home.account:
                raise rights.not_allowed(self.home.account, error) from None
            raise
        return self.child

    def _make_socket_directory(self) -> None:
        place = self.home.socket_directory
        if place == self.home.directory:
            return
        with contextlib.suppress(FileExistsError):
            place.mkdir(mode=0o700)
        facts = place.lstat()
        if self.home.account and facts.st_uid == 0 and stat.S_ISDIR(facts.st_mode):
            os.chown(place, self.home.account.uid, self.home.account.gid, follow_symlinks=False)
            facts = place.lstat()
        if facts.st_uid != self.home.uid or facts.st_mode & 0o077 or not stat.S_ISDIR(facts.st_mode):
            raise StackError(f"{place} belongs to somebody else. Remove it, then type `invoke up`.")

    def _clear_stale_lock(self) -> None:
        """Remove lock files whose process id belongs to another program, as happens after a reboot, or is none.

        PostgreSQL itself only asks whether any process has that id, and would refuse to start.
        """
        if self.process() or shutdown.remains(self.home.directory):
            return
        for lock in (
            self.home.directory / "postmaster.pid",
            self.home.socket_directory / f".s.PGSQL.{self.home.port}.lock",
        ):
            with contextlib.suppress(OSError):
                if _is_stale(regular.text(lock.parent, lock.name)):
                    lock.unlink()

    def starting(self) -> subprocess.Popen[bytes] | None:
        """Return the server that this process has started while it is at work, though it may have no lock file yet."""
        return self.child if self.child and self.child.poll() is None else None

    def running(self) -> Process:
        """Return the server of this directory. Raises StackError when it does not run."""
        state = self.process()
        if not state:
            raise StackError("postgres is not running. Type `invoke up`.")
        if state.stopped:
            raise paused(POSTGRES.name)
        return state

    def process(self) -> Process | None:
        """Return the server of this directory, if it lives."""
        import psutil

        try:
            lines = regular.text(self.home.directory, "postmaster.pid").splitlines()
            process = psutil.Process(int(lines[0]))
            if process.status() == psutil.STATUS_ZOMBIE or not shutdown.is_servers(process, self.home.directory):
                return None
            self._refuse_anothers(process.pid, process.cmdline())
            return Process(process.uids().real, process.status() == psutil.STATUS_STOPPED, *lines)
        except (OSError, ValueError, IndexError, OverflowError, psutil.Error):
            return None

    def _refuse_anothers(self, pid: int, argv: list[str]) -> None:
        """Raise Refused when the server was started by another checkout, whose data a link or a mount brought here."""
        directory = Path(argv[argv.index("-D") + 1]) if "-D" in argv[:-1] else self.home.directory
        owner = directory.parent.parent
        if directory.is_absolute() and owner.is_dir() and not owner.samefile(self.home.root):
            raise Refused(
                f"The PostgreSQL that is at work on {self.home.directory} (process {pid}) is that of another checkout,"
                f" {owner}: a link or a mount brings its data here. Nothing was done.",
                cure=f"Remove that link or mount from {self.home.directory.parent}, then type the command again; or"
                f" work in {owner}.",
            )


class Process:
    """What postmaster.pid tells; it grows while the server starts."""

    def __init__(self, uid: int, stopped: bool, *lines: str) -> None:
        _, port, address, status = (lines[index].strip() if index < len(lines) else "" for index in (1, 3, 5, 7))
        self.pid = int(lines[0])
        self.uid = uid
        self.stopped = stopped
        """Whether somebody has paused it, with SIGSTOP."""
        self.port = int(port or 0)
        self.address = address
        self.status = status


class Server:
    """A server that starts."""

    def __init__(self, postmaster: Postmaster) -> None:
        self._postmaster = postmaster
        self._home = postmaster.home
        self._child: subprocess.Popen[bytes] | None = None
        self._began = time.monotonic()

    def go_on(self) -> bool:
        """Start it if that has not been done, and return whether it runs. Raises StackError with its last words."""
        if self._postmaster.process():
            return True
        if not self._child:
            self._child = self._postmaster.spawn()
        if self._child.poll() is None:
            return False
        said = "\n".join(self._postmaster.first_words().splitlines()[-15:])
        if re.search("pre-existing shared memory block|lock file .* already exists", said.rpartition("FATAL")[2]):
            # A killed server that is not buried yet, or sessions of it that have not noticed; seconds, at most.
            if time.monotonic() > self._began + PATIENCE and (left := shutdown.remains(self._home.directory)):
                raise StackError(
                    shutdown.what_remains(left, self._home.directory),
                    cure="Type `invoke down`, which ends it, then `invoke up`.",
                )
            self._child = None
            return False
        self._home.way()  # which says so when it did not even get as far as PostgreSQL
        raise StackError(
            f"The server ended with exit code {self._child.returncode}. {hint(said)}Its last log lines:\n{said}\n",
            cure="Mend that, then type `invoke up`.",
        )

    def finish(self) -> None:
        """Wait until the process is there; it goes on by itself."""
        while not self.go_on():
            time.sleep(0.02)

    def leave(self) -> None:
        """Leave it alone: it keeps starting, or running."""


def _is_stale(lock: str) -> bool:
    """Return whether a lock file would keep a server from starting though none runs; one of a dead process does not."""
    try:
        os.kill(abs(int(lock.splitlines()[0])), 0)  # negative for a single-user server
    except ProcessLookupError:
        return False
    except (OSError, ValueError, IndexError, OverflowError):
        return True
    return True
