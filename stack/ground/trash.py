"""What lies aside in data/: half deleted, or half made; the living are spared."""

from __future__ import annotations

import os
import re
from pathlib import Path

ASIDE = ".wiped-"
_UNFINISHED = (f"{ASIDE}*", ".new-*")
"""What a run that died may leave in data/: half deleted, or half made."""


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
