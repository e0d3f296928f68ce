"""Who else is at work on a directory: containers as Docker lists them, PostgreSQL's own processes, links on the way.

A place is told by what it is, device and inode, not by its name: one directory has many names.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from stack import regular
from stack.process import Refused


class Holder(NamedTuple):
    """What is at work on a directory, and the command that stops it."""

    who: str
    stop: str


def same(path: Path | str, other: Path | str) -> bool:
    """Return whether two names lead to one file or directory that exists."""
    try:
        return Path(path).samefile(other)
    except OSError:
        return False


def within(path: Path | str, place: Path) -> bool:
    """Return whether a path is a place or lies in it, whatever links and mounts are on the way."""
    real = Path(os.path.realpath(path))
    return any(step == place or same(step, place) for step in (real, *real.parents))


def refuse_if_linked(*steps: Path) -> None:
    """Raise Refused when one of the directories is a symbolic link: another checkout may be at work behind it."""
    for step in steps:
        if step.is_symlink():
            what, cure = link(step)
            raise Refused(f"{what} Nothing was started.", cure=cure)


def link(step: Path) -> tuple[str, str]:
    """Return why a directory that is a symbolic link is not used, and the way on."""
    there = os.path.realpath(step)
    away = f"rm {shlex.quote(str(step))}"
    use = f", or `{away} && mv {shlex.quote(there)} {shlex.quote(str(step))}` to use what lies there, if that is yours"
    return (
        f"{step} is a symbolic link to {there}, where another checkout may keep its data: two servers on it would"
        " destroy it.",
        f"Type `{away}` to take the link away{use if Path(there).is_dir() else ''}; then `invoke up`. A disk for the"
        " data can be mounted there instead.",
    )


def unbindable(root: Path) -> tuple[str, str] | None:
    """Return why Docker cannot mount a folder of this checkout, by its path, and the way on; None when it can.

    A colon divides the parts of a mount, and a name that is no UTF-8 reaches Docker as another one.
    """
    wrong = [step for step in (*reversed(root.parents), root) if _unbindable_name(step.name)]
    if not wrong:
        return None
    free = re.sub(r"[:\udc80-\udcff]", "-", wrong[0].name)
    while os.path.lexists(wrong[0].with_name(free)):
        free += "-"
    why = "a colon in its path" if ":" in wrong[0].name else "a path that is not UTF-8"
    moved = wrong[0].with_name(free) / root.relative_to(wrong[0])
    words = " ".join(_typed(word) for word in ("mv", wrong[0], wrong[0].with_name(free)))
    return (
        f"Docker cannot mount a folder with {why}, and this checkout is in {root}.",
        f"Type `{words} && cd {_typed(moved)} && invoke up`, which gives the folder another name; or set"
        " STACK_ENGINE=embedded, and PostgreSQL runs without Docker.",
    )


def refuse_unbindable(root: Path) -> None:
    """Raise Refused when Docker cannot mount a folder of this checkout."""
    if found := unbindable(root):
        raise Refused(f"{found[0]} Nothing was started.", cure=found[1])


def _unbindable_name(name: str) -> bool:
    return ":" in name or any("\udc80" <= each <= "\udcff" for each in name)


def _typed(word: str | Path) -> str:
    """Return a word as a shell takes it, in letters that any terminal shows."""
    text = str(word)
    if text.isprintable():
        return shlex.quote(text)
    return (
        "$'"
        + "".join(
            f"\\x{byte:02x}" if not 32 <= byte < 127 or byte in b"'\\" else chr(byte) for byte in os.fsencode(text)
        )
        + "'"
    )


# -- what Docker lists --------------------------------------------------------------------------------------


def mounts(listed: str) -> Iterator[str]:
    """Yield what `docker ps` prints under Mounts, which has commas between them and in them."""
    words = listed.split(",")
    while words and words[0]:
        # The longest name that exists here; one that does not exist is taken to have no comma.
        ends = (end for end in range(len(words), 0, -1) if words[0].startswith("/"))
        end = next((end for end in ends if os.path.lexists(",".join(words[:end]))), 1)
        yield ",".join(words[:end])
        words = words[end:]


def holds(source: str, path: Path) -> bool | None:
    """Return whether what is mounted is `path` or lies in it; None when its name says nothing on this machine.

    Docker Desktop prints `/host_mnt` and the path, or a hash (WSL2); podman's shim the path inside.
    """
    if not source.startswith("/"):
        return False if re.fullmatch(r"[0-9a-f]{64}", source) else None  # a volume; a named one may be any directory
    if within(source, path):
        return True
    if not os.path.lexists(source):
        return True if f"{source}/".find(f"{path}/") > 0 else None
    return None if _INSIDE.match(source) else False


# What podman's shim prints may exist here as well, where PostgreSQL is installed.
_INSIDE = re.compile(r"/var/lib/postgresql(/|$)|/convex/data(/|$)")


# -- PostgreSQL's own word ----------------------------------------------------------------------------------


def server(directory: Path) -> Holder | None:
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
    return argv[1:2] == ["-D"] and not same(argv[2], directory) and Path(argv[2]).is_absolute()


def _of_user(uid: int) -> dict[int, list[str]]:
    """Return the PostgreSQL servers of a user, with their command lines, as far as this user may see them."""
    import psutil

    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() in ("postgres", "postmaster") and process.uids().real == uid:
                found[process.pid] = (process.ppid(), process.cmdline())
    return {pid: argv for pid, (parent, argv) in found.items() if parent not in found}


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
