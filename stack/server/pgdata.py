"""The files of a cluster on this machine: what is there, and which version made it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stack.ground import regular
from stack.ground.talk import human
from stack.ground.volume import Place, Volume

FIRST_MADE_LATER = 16384
"""FirstNormalObjectId: what initdb makes has lower numbers, a database or a table that is made later a higher one."""
VERSION = "PG_VERSION"
"""The file whose presence makes a directory a cluster."""
ONE_DATABASE = (
    "A dump holds one database: others, roles and snapshots go with `reset-data`, which says how big it is; move the"
    " directory aside instead to keep them."
)
ADMIT = "host all all all scram-sha-256"
"""The line that lets clients in, which the image too adds to pg_hba.conf last, before it makes the database: who can
reach the server is decided by what it listens on."""
LARGE_OBJECTS = "2613"
"""The file of a database that holds its large objects; empty in a new one."""
VERSIONS = tuple(f"base/{number}/{VERSION}" for number in (1, 4, 5))
"""The same file in each of the databases that initdb makes."""


@dataclass(frozen=True)
class Contents:
    """What is in a cluster's directory, as far as the names and sizes of its files tell."""

    size: int = 0
    """Bytes in all."""
    files: int = 0
    """How many files may hold tables of the user's."""
    files_size: int = 0
    """Bytes in them."""
    complete: bool = False
    """A database was made after initdb, which had come to its end by then."""

    def __str__(self) -> str:
        if not self.files:
            return f"{human(self.size)} and no table"
        held = f"{self.files} file{'s' * (self.files > 1)} ({human(self.files_size)})"
        return f"{human(self.size)}, with {held} that may be tables of yours"


def read(directory: Path, *names: str) -> dict[str, str]:
    """Return those of the named files in a cluster that are there, as text, and under "" what is in its directory.

    Nothing at all when the directory is empty or absent. Raises PermissionError when this user may not look.
    """
    try:
        listing = "\n".join(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return {}
    found = {"": listing} if listing else {}
    for name in names if listing else ():
        try:
            found[name] = regular.text(directory, name)
        except PermissionError:
            raise
        except OSError:  # not there, or something else in its place
            continue
    return found


def contents(directory: Path) -> Contents:
    """Return what is in a cluster. Raises PermissionError when this user may not look."""
    return counted(_files(directory))


def _files(directory: Path) -> Iterable[tuple[str, int]]:
    for where, folders, files in os.walk(directory, onerror=_raise):
        for name in (*folders, *files):
            path = Path(where, name)
            try:
                facts = path.lstat()
            except FileNotFoundError:  # a running server removes files while we look
                continue
            yield str(path.relative_to(directory)), facts.st_blocks * 512


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def counted(found: Iterable[tuple[str, int]]) -> Contents:
    """Judge the paths below a cluster's directory, each with its size in bytes."""
    size = files = files_size = 0
    complete = False
    for path, its in found:
        size += its
        folder, _, rest = path.partition("/")
        database, _, name = rest.partition("/")
        complete |= folder == "base" and database.isdigit() and int(database) >= FIRST_MADE_LATER
        number = re.match(r"(?:t\d+_)?(\d+)", name)
        made_later = number and int(number[1]) >= FIRST_MADE_LATER
        if (folder == "base" and (made_later or (name == LARGE_OBJECTS and its))) or (folder == "pg_tblspc" and rest):
            files, files_size = files + 1, files_size + its
    return Contents(size, files, files_size, complete)


def keep(directory: Place) -> str:
    """Return what to type to keep a cluster and make room for a new one.

    A rename within `data/` is allowed to its owner, whoever owns the files, and needs no room. A volume keeps its name.
    """
    if isinstance(directory, Volume):
        layer = f"volumes: {{pg: {{name: {directory.name}-2}}}}"
        return f"`invoke down`, name another volume in a layer of your own (`{layer}`), `invoke up`"
    names = (f"{directory.name}-kept", *(f"{directory.name}-kept-{n}" for n in range(2, 100)))
    kept = next(path for name in names if not (path := directory.with_name(name)).exists())
    return f"`invoke down`, `mv {shlex.quote(str(directory))} {shlex.quote(str(kept))}`, `invoke up`"


def start_over(directory: Place, held: Contents | None) -> str:
    """Return what a broken cluster still holds, and a way to a working one; to delete is advised for nobody's data."""
    leaf = "pg" if isinstance(directory, Volume) else directory.name
    if held and not held.files:
        return (
            f"{directory} holds {held}. To keep it as a copy and begin anew, type {keep(directory)}. To delete it, type"
            f" `invoke reset-data --service {leaf}`, then `invoke up`."
        )
    if not held and isinstance(directory, Path) and not directory.exists():  # a volume without a name, say
        return f"Its data is not in {directory}, and what it holds cannot be seen from here: do not delete it."
    holds = f"{directory} holds {held}" if held else f"What {directory} holds cannot be seen from here"
    return (
        f"{holds}: do not delete it. To keep all of it and have a working stack, type {keep(directory)}, and"
        " `invoke load FILE` with your last dump; what lies in the kept directory can still be mended from there."
    )


def other_major(made_by: str, runs: str) -> tuple[str, str]:
    """Return why a server of one major version does not start on the data of another, and the way from old to new."""
    return (
        f"the data was made by PostgreSQL {made_by}, and the stack runs {runs}",
        f"Nothing is lost. Set POSTGRES_IMAGE back to PostgreSQL {made_by}; or dump with the old and load with the new:"
        f" `POSTGRES_IMAGE=postgres:{made_by} invoke up`, `invoke dump old.dump`, `invoke reset-data --service pg`,"
        f" `invoke up`, `invoke load old.dump`. {ONE_DATABASE}",
    )


def made_by(there: Mapping[str, str], *names: str) -> str:
    """Return the major version that the first of some files tells, or nothing: it may hold anything, or be a link."""
    told = (re.fullmatch(r"[1-9]\d?", there.get(name, "").strip()) for name in names or (VERSION,))
    return next((each[0] for each in told if each), "")


def lack(name: str, there: Mapping[str, str]) -> str:
    """Return what is wrong with a file that a server needs, as a clause; nothing when it has something in it."""
    if name not in there:
        return f"{name} is missing"
    text = there[name].strip()
    if name == VERSION and text and not made_by(there):
        return f"{name} holds {text[:20]!r}, which is no version"
    if name != "postgresql.conf" and not any(line.partition("#")[0].strip() for line in text.splitlines()):
        return f"{name} has no line in it" if text else f"{name} is empty"
    return ""
