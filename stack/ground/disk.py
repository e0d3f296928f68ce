"""Disks and directories: how much room is left, and which names lead to one place."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

from stack.ground.errors import Refused, StackError
from stack.ground.talk import human
from stack.ground.volume import Place

NEARLY_FULL = 100_000_000
"""Bytes that a start needs: an empty cluster takes 40 MB; PostgreSQL stops when a WAL segment (16 MB) has none."""
TIGHT = 2_000_000_000
"""Bytes to work in: the WAL grows to max_wal_size (1 GB) between two checkpoints, and a dump comes on top."""


def has_data(directory: Path) -> bool:
    """Return whether a directory holds anything; one that may not be read belongs to a container's user, so it does."""
    try:
        return any(directory.iterdir())
    except FileNotFoundError:
        return False
    except OSError:
        return True


def used(directory: Path) -> int:
    """Return the bytes in a directory. Raises PermissionError where the user may not look."""
    total = 0
    try:
        for place, _, names in os.walk(directory, onerror=_raise):
            total += sum(Path(place, name).lstat().st_blocks * 512 for name in names)
    except (FileNotFoundError, NotADirectoryError):  # a running server removes files while we look; or it is a file
        pass
    return total


def _raise(error: OSError) -> None:
    raise error


def free(path: Path) -> int:
    """Return the bytes that are free where a directory is, or would be."""
    there = next(place for place in (path, *path.parents) if place.exists())
    return shutil.disk_usage(there).free


def refuse_if_full(path: Path, freed: int = 0) -> None:
    """Raise StackError when the disk has too little room for a server to start; `freed` bytes are deleted before."""
    if (left := free(path)) + freed < NEARLY_FULL:
        raise full(left, path)


def full(left: int, place: Place) -> StackError:
    """Return what to say of a disk on which no server can start."""
    return StackError(
        f"Only {human(left)} are free on the disk of {place}, and PostgreSQL stops when it cannot write.",
        cure="Make room, then type `invoke up`.",
    )


def mount_points() -> list[Path]:
    """Return where file systems are mounted, as Linux lists them."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:  # not Linux
        return []
    return [Path(line.split()[4].encode().decode("unicode_escape")) for line in lines]


def same(path: Path | str, other: Path | str) -> bool:
    """Return whether two names lead to one file or directory that exists."""
    try:
        return Path(path).samefile(other)
    except OSError:
        return False


def is_gone(path: Path) -> bool:
    """Return whether there is nothing of that name; False where this user may not look."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def is_seen(path: Path) -> bool:
    """Return whether there is something of that name, and this user may know."""
    try:
        path.stat()
    except OSError:
        return False
    return True


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
