"""What lies aside in data/: half deleted, or half made; the living are spared."""

from __future__ import annotations

import os
import re
from pathlib import Path

from stack.ground.disk import has_data
from stack.ground.files import sync_directory
from stack.ground.talk import say

ASIDE = ".wiped-"
KEPT = ".after-reset"
"""How the names begin of what a reset keeps for the next one."""
BORN = ".born-"
"""How the name of a part begins that waits for the cluster it came with; its own and the cluster's inode follow."""
_UNFINISHED = (f"{ASIDE}*", ".new-*")
"""What a run that died may leave in data/: half deleted, or half made."""


def take_place(root: Path, parts: dict[str, Path], cluster: str) -> None:
    """Give directories in `data/` that are whole their names, together: with the cluster's all are there, or none is.

    What is killed meanwhile, `settle` brings to its end.
    """
    data, inode = root / "data", parts[cluster].stat().st_ino
    for name, path in parts.items():
        if name != cluster:
            path.rename(data / f"{BORN}{name}-{inode}")
    sync_directory(data)
    parts[cluster].rename(data / cluster)
    sync_directory(data)
    settle(root)


def put_aside(path: Path) -> None:
    """Let a directory be one that is deleted in the background, and by the next `up`. Raises OSError."""
    path.rename(path.with_name(f"{ASIDE}{path.name.lstrip('.')}-{os.urandom(4).hex()}"))


def settle(root: Path) -> None:
    """Let the parts of a cluster that is there follow it, and give up those of one that never came to be there."""
    data = root / "data"
    for path in data.glob(f"{BORN}*"):
        name, _, inode = path.name.removeprefix(BORN).rpartition("-")
        there = {str(each.stat().st_ino) for each in (data / "pg", data / "embedded") if each.is_dir()}
        if inode in there and not has_data(data / name):
            path.rename(data / name)
        else:
            if inode in there:
                say(f"{data / name} was made anew while a copy was to take its place, so that copy is given up.")
            put_aside(path)
        sync_directory(data)


def unfinished(root: Path) -> list[Path]:
    """Return what runs that died have left in `data/`; what a living one is still making is not among it."""
    found = [path for pattern in _UNFINISHED for path in (root / "data").glob(pattern)]
    return [path for path in found if (path.is_dir() or path.is_symlink()) and not _in_work(path)]


def _in_work(path: Path) -> bool:
    """Return whether another process that lives is making a directory; its name carries the process id.

    A process that began after the last change of the directory has only got the id of the one that made it.
    """
    import psutil

    maker = re.match(r"\.new-[a-z]+-(\d+)", path.name)
    if not maker or int(maker[1]) == os.getpid():
        return False
    try:
        process = psutil.Process(int(maker[1]))
        alive = bool(process.cmdline())  # the kernel's own have none, and the dead that nobody has buried
        return alive and process.create_time() <= path.lstat().st_mtime + 1  # a clock tick is 10 ms
    except (psutil.Error, OSError):
        return False
