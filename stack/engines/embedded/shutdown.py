"""How a server that is a process of this machine is ended: fast, else at once, else by force."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stack.ground import regular
from stack.ground.errors import StackError
from stack.ground.talk import say

if TYPE_CHECKING:
    from psutil import Process

SERVERS = ("postgres", "postmaster")
"""What PostgreSQL's own processes are called."""
AT_ONCE = 10.0
"""Seconds that an immediate stop may take; after five the server kills sessions that do not heed it."""
BY_FORCE = 5.0
"""Seconds in which a killed process is gone, unless the kernel itself holds it."""
_CRASH = re.compile(
    r'^(?:(?!:  ).)*(?:PANIC:  .*|LOG:  (?:[\w ]+(?:"[^"]*" )?\(PID \d+\) was terminated by signal|all server processes'
    r" terminated; reinitializing|database system was (?:interrupted|not properly shut down)|abnormal database).*)$",
    re.MULTILINE,
)
"""What the server's log says of its own crash; not the same words in a statement that it logs."""
_TO_RECOVER = range(3, 7)
"""The states DB_SHUTDOWNING, DB_IN_CRASH_RECOVERY, DB_IN_ARCHIVE_RECOVERY and DB_IN_PRODUCTION."""
_RECOVERS = "Nothing that was committed is lost: the next start recovers it from the server's own log (WAL)."


def stop(pid: int, log: Path, patience: float) -> bool:
    """Stop a server, giving its sessions `patience` seconds to end; return whether it stopped cleanly.

    One that crashes meanwhile, or does not end, is ended at once. Raises StackError when even killing does not help.
    """
    import psutil

    try:
        server = psutil.Process(pid)
        before = log.stat().st_size if log.exists() else 0
        server.send_signal(signal.SIGINT)  # what pg_ctl calls a fast stop
    except psutil.NoSuchProcess:
        return _ended(log.parent)
    deadline, why = time.monotonic() + patience, ""
    with _told(pid):
        while not why and lives(server):
            if crash := _crash(log, before):
                why = f"The server crashed while it was stopping. It said:\n    {crash}\n"
            elif time.monotonic() > deadline:
                why = f"The server has not stopped within {patience:g} s.{_last(log)}"
            else:
                time.sleep(0.02)
    if why:
        return at_once([server], why)
    if crash := _crash(log, before):
        say(f"The server crashed while it was stopping. It said:\n    {crash}\n{_RECOVERS}")
        return False
    return _ended(log.parent)


def at_once(processes: list[Process], why: str) -> bool:
    """End a server and what is left of one without any more work, saying why; return False: that is not clean.

    Raises StackError when one cannot be ended.
    """
    import psutil

    numbers = ", ".join(str(process.pid) for process in processes)
    say(f"{why}It is ended at once now (immediate stop, process {numbers}). {_RECOVERS}")
    _signal(processes, signal.SIGQUIT)
    with _told(processes[0].pid):
        if _gone(processes, AT_ONCE):
            return False
        for process in [*processes]:
            with contextlib.suppress(psutil.Error):
                processes += process.children()
        numbers = ", ".join(str(process.pid) for process in processes)
        say(f"It has not ended within {AT_ONCE:g} s, so it is killed, with its sessions: process {numbers}.")
        _signal(processes, signal.SIGKILL)
        if _gone(processes, BY_FORCE):
            return False
    held = ", ".join(f"{process.pid} ({process.status()})" for process in processes if lives(process))
    raise StackError(
        f"Process {held} of the server does not end even though it was killed: the kernel waits for something, mostly"
        " for a disk that does not answer. Look at the disk of the data directory, then type `invoke down` again."
    )


def remains(directory: Path) -> list[Process]:
    """Return what still runs of servers of a directory that its lock file does not tell of, the servers first.

    Their files may have been deleted or moved, their lock file removed, or the server killed without its sessions.
    """
    import psutil

    found: dict[int, Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError, ValueError, IndexError):
            single = "--single" in process.cmdline()[1:2]  # somebody's own work, in a terminal
            if process.name() in SERVERS and not single and lives(process) and _belongs(process, directory):
                found[process.pid] = process
    return sorted(found.values(), key=lambda process: _parent(process) in found)


def what_remains(processes: list[Process], directory: Path) -> str:
    """Return in one sentence what `remains` has found."""
    if not _is_server(processes[0], directory):
        numbers = ", ".join(str(process.pid) for process in processes)
        return f"Sessions of a server that was killed still run on {directory} (process {numbers})."
    if not _has_files(processes[0], directory):
        why = f"whose files in {directory} were deleted beneath it"
    elif _is_in_place(processes[0], directory):
        why = f"though {directory / 'postmaster.pid'} does not tell of it"
    else:
        why = f"whose files were moved away from {directory}"
    return f"A server of this checkout still runs (process {processes[0].pid}), {why}."


def end_remains(processes: list[Process], directory: Path, log: Path, patience: float) -> bool:
    """End what `remains` has found, saying so; return whether it stopped cleanly."""
    processes = [process for process in processes if lives(process)]
    if not processes:  # they have ended just now
        return True
    what = what_remains(processes, directory)
    if _is_server(processes[0], directory) and _has_files(processes[0], directory):
        say(f"{what} Stopping it.")
        its = log if _is_in_place(processes[0], directory) else _place(processes[0]) / log.name
        return stop(processes[0].pid, its, patience)
    return at_once(processes, f"{what} ")


def is_servers(process: Process, directory: Path) -> bool:
    """Return whether a process whose id the lock file has is the server of a directory. Raises psutil.Error, OSError.

    Only its own postmaster has the data directory as its working directory. Root in a container may not see that of
    another user's process; there its command line must tell. Whoever writes the lock file may have put the id of
    anybody's process into it, as of a shell that was left in the directory.
    """
    import psutil

    if process.name() not in SERVERS or not _is_owners(process, directory):
        return False
    try:
        return directory.samefile(process.cwd())
    except psutil.AccessDenied:
        return _is_server(process, directory)


def logged(log: Path, begin: int = 0) -> str:
    """Return what a server's log says from a byte on; nothing when it cannot be read, or is no file."""
    try:
        return regular.end(log.parent, log.name, begin)
    except OSError:
        return ""


def lives(process: Process) -> bool:
    """Return whether a process runs; one that is dead and not yet buried does not."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _gone(processes: list[Process], patience: float) -> bool:
    deadline = time.monotonic() + patience
    while any(map(lives, processes)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _signal(processes: list[Process], number: signal.Signals) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@contextlib.contextmanager
def _told(pid: int) -> Iterator[None]:
    """Say what goes on when the user does not want to wait for it."""
    ended = False
    try:
        yield
        ended = True
    finally:
        if not ended:
            say(f"The server (process {pid}) was told to stop, and goes on stopping. `invoke down` waits for it again.")


def _crash(log: Path, before: int) -> str:
    """Return the line in which a server tells of its crash, in what it has logged after `before` bytes."""
    found = _CRASH.search(logged(log, before))
    return found[0].strip() if found else ""


def _ended(directory: Path) -> bool:
    """Say so when a server has ended without its last checkpoint; return whether it wrote that."""
    if _is_to_recover(directory):
        say(f"The server has ended without a last checkpoint, as after a crash. {_RECOVERS}")
        return False
    return True


def _is_to_recover(directory: Path) -> bool:
    """Return whether the next start recovers a server's files, as pg_control tells (pg_control.h)."""
    try:
        with regular.opened(directory, "global/pg_control") as control:
            return int.from_bytes(control.read(20)[16:], sys.byteorder) in _TO_RECOVER
    except OSError:
        return False


def _last(log: Path) -> str:
    lines = logged(log).splitlines()
    return f" It last said:\n    {lines[-1]}\n" if lines else " "


def _belongs(process: Process, directory: Path) -> bool:
    """Return whether a process of PostgreSQL's has a directory as its own, or had it before it was deleted or moved.

    A container's server is not ours to end, though its processes are seen here and the directory may be the same.
    """
    try:
        here = _place(process).stat()
    except FileNotFoundError:  # not Linux: what it tells of itself is all that is known
        return _is_server(process, directory) or Path(process.cwd()) == directory
    except PermissionError:  # another user's, or root is in a container
        return os.geteuid() == 0 and _is_server(process, directory)
    if not Path(f"/proc/{process.pid}/ns/pid").samefile("/proc/self/ns/pid"):
        return False
    if directory.exists() and os.path.samestat(here, directory.stat()) and _is_owners(process, directory):
        return True
    return _is_server(process, directory) or (here.st_nlink == 0 and Path(process.cwd()) == directory)


def _is_owners(process: Process, directory: Path) -> bool:
    """Return whether a process is that of the directory's owner, or root's, as a server was once."""
    return process.uids().real in (0, directory.stat().st_uid)


def _place(process: Process) -> Path:
    """Return its working directory, wherever that is now and by whatever name; Linux alone has this."""
    return Path(f"/proc/{process.pid}/cwd")


def _has_files(process: Process, directory: Path) -> bool:
    try:
        return _place(process).stat().st_nlink > 0
    except OSError:
        return (directory / "PG_VERSION").exists()


def _is_in_place(process: Process, directory: Path) -> bool:
    try:
        return directory.samefile(_place(process))
    except FileNotFoundError:  # deleted, or moved away
        return False
    except OSError:
        return True


def _is_server(process: Process, directory: Path) -> bool:
    """Return whether it is the server itself; its sessions have other titles in place of a command line."""
    import psutil

    try:
        return process.cmdline()[1:3] == ["-D", str(directory)]
    except psutil.NoSuchProcess:  # it has ended just now
        return False


def _parent(process: Process) -> int | None:
    import psutil

    try:
        return process.ppid()
    except psutil.Error:
        return None
