"""What seed/ is told from others by: its files, one run of them after the other from the first, and what they read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stack.ground import disk
from stack.server.admin import Cluster
from stack.verbs import executables
from stack.verbs.seeds import readable
from stack.verbs.store import Snapshot, of_database

if TYPE_CHECKING:
    from typing_extensions import LiteralString

MESSAGE = "right after the seed"
"""What `invoke snapshots` says of what all files make."""
BEGINS = "fresh-"
"""What the snapshots are called in which a result is kept, before the first digits of a fingerprint."""
_MADE_BY: LiteralString = """
SELECT current_setting('server_version'), encoding, datlocprovider::text, datcollate, datctype, datlocale, daticurules,
       pg_get_userbyid(datdba),
       (SELECT string_agg(name || default_version, ',' ORDER BY name) FROM pg_available_extensions)
FROM pg_database AS d WHERE datname = %s"""
"""What an empty database of the server is like, with the extensions of its image. Not the database's own settings: a
seed may set them."""


class Recipe(NamedTuple):
    """What is applied, and what tells it from others."""

    files: list[Path]
    """In their order."""
    runs: list[bytes]
    """What tells each run of files from the first on from others: all that makes the first, the first two, and so on.

    What lies in seed/ and is not applied itself may be read by any of them, so it is in each.
    """
    silent: list[Path]
    """The programs that do not say what they read."""

    @property
    def known(self) -> int:
        """How many files from the first on are known with all that they read."""
        return self.files.index(self.silent[0]) if self.silent else len(self.files)

    def names(self, cluster: Cluster) -> list[str]:
        """Return what the result of each run is called when a server has made it."""
        told = repr(cluster.rows(_MADE_BY, cluster.database)).encode()
        return [BEGINS + hashlib.sha256(run + told).hexdigest()[:12] for run in self.runs]

    def reads_on(self, read: Collection[Path], count: int) -> bool:
        """Return whether any of some files that were read is applied itself, and not among the first `count`."""
        return any(disk.same(path, each) for path in read for each in self.files[count:])


def outside(root: Path, read: Collection[Path]) -> list[str]:
    """Return those of some files that were read which are not in a checkout's seed/, and so are not known."""
    inside = (root / "seed").resolve()
    return sorted(str(path) for path in read if inside not in path.resolve().parents)


def recipe(root: Path, files: list[Path]) -> Recipe:
    """Return what tells the files of a checkout's seed/ from others. Raises Refused when one cannot be read."""
    with readable():
        return _recipe(root, files)


def _recipe(root: Path, files: list[Path]) -> Recipe:
    found, runs, silent = (
        hashlib.sha256(_of_folder(root / "seed", but=set(files)).digest()),
        list[bytes](),
        list[Path](),
    )
    for file in files:
        found.update(os.fsencode(file.name) + b"\0" + _of_file(file).digest())
        if executables.is_program(file):
            read = executables.reads(file)
            if read is None:
                silent.append(file)
            found.update(b"runs")
            for name in read or []:
                path = root / name
                told = _of_folder(path) if path.is_dir() else _of_file(path)
                found.update(os.fsencode(name) + b"\0" + told.digest())
        runs.append(found.digest())
    return Recipe(files, runs, silent)


def _of_folder(folder: Path, but: Collection[Path] = ()) -> hashlib._Hash:
    found = hashlib.sha256()
    for place, folders, names in os.walk(folder):
        folders.sort()
        for path in (Path(place, name) for name in sorted(names)):
            if path not in but:
                found.update(os.fsencode(path.relative_to(folder)) + b"\0" + _of_file(path).digest())
    return found


def _of_file(path: Path) -> hashlib._Hash:
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            while some := file.read(1 << 20):
                digest.update(some)
    return digest


def all_kept(cluster: Cluster) -> list[Snapshot]:
    """Return what is kept, and not what somebody has called so."""
    return [each for each in of_database(cluster) if each.seed]


def usable(cluster: Cluster, there: list[Snapshot]) -> dict[str, Snapshot]:
    """Return by their names those of which all roles are still there."""
    roles = {role for (role,) in cluster.rows("SELECT rolname FROM pg_roles")}
    return {each.name: each for each in there if roles.issuperset(each.roles)}
