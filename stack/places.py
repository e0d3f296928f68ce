"""Where a cluster lives on this machine: what is there, which version made it, how much room is left."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from stack.process import StackError
from stack.talk import human

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


def free(path: Path) -> int:
    """Return the bytes that are free where a directory is, or would be."""
    there = next(place for place in (path, *path.parents) if place.exists())
    return shutil.disk_usage(there).free


def refuse_if_full(path: Path, freed: int = 0) -> None:
    """Raise StackError when the disk has too little room for a server to start; `freed` bytes are deleted before."""
    if (left := free(path)) + freed < NEARLY_FULL:
        raise StackError(
            f"Only {human(left)} are free on the disk of {path}, and PostgreSQL stops when it cannot write.",
            cure="Make room, then type `invoke up`.",
        )


def read(directory: Path, *names: str) -> dict[str, str]:
    """Return those of the named files in a cluster that exist, as text, and under "" what is in its directory.

    Nothing at all when the directory is empty or absent. Raises PermissionError when this user may not look.
    """
    try:
        listing = "\n".join(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return {}
    there = (name for name in names if (directory / name).is_file())
    return {"": listing, **{name: (directory / name).read_text(errors="replace") for name in there}} if listing else {}


def identifier(directory: Path) -> int:
    """Return a cluster's system identifier, which initdb gives it: the first eight bytes of its control file.

    Raises StackError when that cannot be read.
    """
    try:
        with (directory / "global" / "pg_control").open("rb") as control:
            return int.from_bytes(control.read(8), sys.byteorder)
    except OSError as error:
        raise StackError(f"{error.filename} cannot be read: {error.strerror}.", cure="Type `invoke doctor`.") from None


def other_major(made_by: str, runs: str) -> tuple[str, str]:
    """Return why a server of one major version does not start on the data of another, and the way from old to new."""
    return (
        f"the data was made by PostgreSQL {made_by}, and the stack runs {runs}",
        f"Nothing is lost. Set POSTGRES_IMAGE back to PostgreSQL {made_by}; or dump with the old and load with the new:"
        f" `POSTGRES_IMAGE=postgres:{made_by} invoke up`, `invoke dump old.dump`, `invoke reset-data --service pg`,"
        " `invoke up`, `invoke load old.dump`.",
    )
