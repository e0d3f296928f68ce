"""The PostgreSQL process that is at work on a directory, whoever started it."""

from __future__ import annotations

import os
import re
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from stack.ground import regular
from stack.ground.disk import same


class Holder(NamedTuple):
    """What is at work on a directory, and the command that stops it."""

    who: str
    stop: str


def at_work_on(directory: Path) -> Holder | None:
    """Return the PostgreSQL that is at work on a cluster, as far as this user may see it.

    Each process of a server has the cluster as its working directory. The process id in postmaster.pid is looked at
    only where there is no /proc: what a container writes there is a number of its own.
    """
    try:
        (directory / "postmaster.pid").stat()
    except PermissionError:
        if os.geteuid() != 0:
            return None  # a server of this user's could not read it either
    except OSError:
        return None
    if sys.platform != "linux":
        return _by_lock_file(directory)
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with suppress(OSError, ValueError):
                stat = Path(entry.path, "stat").read_text(errors="replace")
                name, _, rest = stat.partition("(")[2].rpartition(")")
                if name in ("postgres", "postmaster") and same(f"{entry.path}/cwd", directory):
                    found[int(entry.name)] = int(rest.split()[1])
    first = next((pid for pid, parent in sorted(found.items()) if parent not in found), None)
    if first is None:
        return None
    with suppress(OSError):  # it may end at any moment
        words = Path(f"/proc/{first}/cmdline").read_bytes().decode(errors="replace").split("\0")
        container = re.search(r"[0-9a-f]{64}", Path(f"/proc/{first}/cgroup").read_text())
        return _process(first, " ".join(words).strip(), container[0][:12] if container else "")
    return None


def _by_lock_file(directory: Path) -> Holder | None:
    import psutil

    with suppress(OSError, ValueError, IndexError, psutil.Error):
        process = psutil.Process(int(regular.text(directory, "postmaster.pid").splitlines()[0]))
        if "postgres" in process.name() and same(process.cwd(), directory):
            return _process(process.pid, " ".join(process.cmdline()))
    return None


def _process(pid: int, command: str, container: str = "") -> Holder:
    who = f"the process {pid} (`{command[:200]}`)"
    if container:  # it might be started again
        where = f"in the container {container} of a Docker that this stack does not use"
        return Holder(f"{who} {where}", f"docker stop {container}")
    # What pg_ctl calls a fast stop; to a single-user server it means only that a query is to end.
    return Holder(who, f"kill {pid}" if " --single " in command else f"kill -INT {pid}")


def embedded() -> dict[int, Path]:
    """Return the servers that a checkout of this user's runs without Docker, by process id, with their directory."""
    import psutil

    me, found = os.geteuid(), {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            argv = process.cmdline() if process.name() in ("postgres", "postmaster") else []
            owns = me in (0, process.uids().real)
            if (
                owns
                and argv[1:2] == ["-D"]
                and argv[2].endswith("/data/embedded")
                and "cluster_name=" in " ".join(argv)
            ):
                found[process.pid] = Path(argv[2])
    return found


def closed(directory: Path) -> tuple[str, str]:
    """Return why a cluster that is another user's is not used, and how to take it over.

    A server that is at work on it would lose its files; what this user may see of it is looked at first.
    """
    import pwd

    uid = directory.stat().st_uid
    place, owner = shlex.quote(str(directory)), str(uid)
    with suppress(KeyError):
        owner = pwd.getpwuid(uid).pw_name
    take = f"`sudo chown -R $USER {place}`, then the command again."
    stop = f"or let {owner} type `invoke down`; then"
    found = _of_user(uid)
    if pid := next((pid for pid, argv in found.items() if argv[1:3] == ["-D", str(directory)]), 0):
        return (
            f"{directory} is {owner}'s, and so is the PostgreSQL that is at work on it (process {pid}), which does not"
            " bear that its files are given to you.",
            f"Type `sudo kill -INT {pid}` (a fast shutdown), {stop} {take}",
        )
    if maybe := [str(pid) for pid, argv in found.items() if not _is_elsewhere(argv, directory)][:4]:
        which = f"`sudo kill -INT {maybe[0]}`" if len(maybe) == 1 else "`sudo kill -INT` and its number"
        return (
            f"{directory} is {owner}'s. A PostgreSQL of {owner}'s runs (process {', '.join(maybe)}), and may be at work"
            " on it, which is not to be seen from here.",
            f"Type `sudo ls -l {' '.join(f'/proc/{pid}/cwd' for pid in maybe)}`, which shows where it works. If that is"
            f" there, stop it: {which}, {stop} {take}",
        )
    return (
        f"{directory} is {owner}'s, and whether a server is at work on it is not to be seen from here.",
        f"Type `sudo cat {place}/postmaster.pid`: when there is no such file, none is; else let {owner} type `invoke"
        f" down` first. Then {take}",
    )


def _is_elsewhere(argv: list[str], directory: Path) -> bool:
    """Return whether a server's command line names another directory than this."""
    named = argv[argv.index("-D") + 1 :][:1] if "-D" in argv else []
    return any(Path(place).is_absolute() and not same(place, directory) for place in named)


def _of_user(uid: int) -> dict[int, list[str]]:
    """Return the PostgreSQL servers of a user, with their command lines, as far as this user may see them."""
    import psutil

    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() in ("postgres", "postmaster") and process.uids().real == uid:
                found[process.pid] = (process.ppid(), process.cmdline())
    return {pid: argv for pid, (parent, argv) in found.items() if parent not in found}
