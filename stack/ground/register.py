"""The checkouts of this user on this machine, written down as they are set up and started."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stack.ground import files

PATIENCE = 60
"""Seconds that another checkout is waited for while it chooses its name and ports."""


def place() -> Path:
    """Return the folder that the register is in."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state", "convex-poc")


def checkouts() -> dict[Path, float]:
    """Return the checkouts that were set up or started, and when last, in seconds since 1970; some may be gone."""
    try:
        told = json.loads((place() / "checkouts.json").read_text(encoding="utf-8", errors="surrogateescape"))
        return {Path(path): float(at) for path, at in told.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def note(root: Path) -> None:
    """Write down that a checkout is in use; where that cannot be written, it is only not found by the others."""
    with suppress(OSError), chosen_alone():
        write(root)


def forget(root: Path) -> None:
    """Let others have a checkout's name and ports."""
    with suppress(OSError), chosen_alone():
        _keep({path: at for path, at in checkouts().items() if path != root})


@contextmanager
def chosen_alone() -> Iterator[None]:
    """Hold what two checkouts must not choose at once. Raises OSError when this machine has no place for the lock."""
    from filelock import FileLock, Timeout

    place().mkdir(parents=True, exist_ok=True)
    lock = FileLock(place() / "lock", mode=0o600)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout as error:
        raise OSError(None, f"another checkout has held it for {PATIENCE} s", lock.lock_file) from error
    try:
        yield
    finally:
        lock.release()


def write(root: Path) -> None:
    """Write down that a checkout is in use, while the lock is held."""
    _keep({**checkouts(), root: time.time()})


def _keep(known: dict[Path, float]) -> None:
    """Write them all down, but for those whose folder is gone."""
    there = {str(path): at for path, at in known.items() if path.is_dir()}
    files.write_text(place() / "checkouts.json", json.dumps(there, indent=2))
