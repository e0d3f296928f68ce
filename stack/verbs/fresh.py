"""The database as it is right after the seed: made once, then brought back until what makes it has changed."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from stack.engines.base import Engine, need
from stack.ground.errors import Refused
from stack.ground.talk import counted, human, say
from stack.server.admin import Cluster
from stack.verbs import executables, load, spares
from stack.verbs.aside import Aside, exchanged
from stack.verbs.drop import BACK
from stack.verbs.restore import bring_back
from stack.verbs.snapshots import become
from stack.verbs.store import MAKING, MARK, Snapshot, made_comment, of_database
from stack.verbs.whole import fill

if TYPE_CHECKING:
    from typing_extensions import LiteralString

BEGINS = "fresh-"
"""What the snapshots are called in which it is kept, before the first digits of a fingerprint."""
MESSAGE = "right after the seed"
_MADE_BY: LiteralString = """
SELECT current_setting('server_version'), encoding, datlocprovider::text, datcollate, datctype, datlocale, daticurules,
       pg_get_userbyid(datdba),
       (SELECT string_agg(name || default_version, ',' ORDER BY name) FROM pg_available_extensions)
FROM pg_database AS d WHERE datname = %s"""
"""What an empty database of the server is like, with the extensions of its image. Not the database's own settings: a
seed may set them."""


def fresh(engine: Engine, *, cache: bool = True, yes: bool = False) -> None:
    """Replace what is in the database by what seed/ makes of an empty one, all of it or nothing.

    The result is kept as a snapshot under the fingerprint of all that made it, and only brought back while that is the
    same; without `cache` it is made anew. Raises Refused when seed/ is empty, StackError with psql's words at the first
    file that fails.
    """
    need(engine.data, engine)  # a server elsewhere has no room for what is kept
    if not (there := load.to_apply(engine)):
        raise Refused(
            "There is nothing in seed/ to make a database of, so nothing was done. Put files of SQL there, such as"
            " seed/010_schema.sql; `invoke reset-data` deletes what is in the database."
        )
    files, silent = _fingerprint(engine.root, there)
    known = cache and not silent
    if known and bring_back(engine, lambda cluster: _kept(cluster, files), only="pg", yes=yes, by="fresh"):
        return
    with exchanged(engine, "fresh", afresh=True, room=load.size(there), yes=yes) as place:
        notes = load.apply(engine, lambda ahead: fill(place, ahead), there, into=place.name)
        notes += [_not_kept(silent)] if silent else _keep(engine, place, files)
    for each in notes:
        say(each)
    back = f" {BACK}" if place.kept else ""
    say(f"{place.cluster.database} has what {counted(len(there), 'file')} of seed/ make, and nothing else.{back}")


def _fingerprint(root: Path, there: list[Path]) -> tuple[bytes, list[Path]]:
    """Return what tells a seed/ from others: names and bytes of all that is in it, and of what its programs read.

    Return also the programs that do not say what they read.
    """
    found, silent = _of_folder(root / "seed"), list[Path]()
    for program in filter(executables.is_program, there):
        read = executables.reads(program)
        if read is None:
            silent.append(program)
        found.update(os.fsencode(program.name) + b"\0")
        for name in read or []:
            path = root / name
            found.update(os.fsencode(name) + b"\0" + (_of_folder(path) if path.is_dir() else _of_file(path)).digest())
    return found.digest(), silent


def _of_folder(folder: Path) -> hashlib._Hash:
    found = hashlib.sha256()
    for place, folders, names in os.walk(folder):
        folders.sort()
        for path in (Path(place, name) for name in sorted(names)):
            found.update(os.fsencode(path.relative_to(folder)) + b"\0" + _of_file(path).digest())
    return found


def _of_file(path: Path) -> hashlib._Hash:
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            while some := file.read(1 << 20):
                digest.update(some)
    return digest


def _not_kept(silent: list[Path]) -> str:
    names = ", ".join(f"seed/{path.name}" for path in silent)
    return (
        f"It is not kept for the next time, since what {names} makes may depend on other files. A second line"
        " `# reads:` in it, with their paths from the checkout's directory or with nothing, says on which."
    )


def _name(cluster: Cluster, files: bytes) -> str:
    told = repr(cluster.rows(_MADE_BY, cluster.database)).encode()
    return BEGINS + hashlib.sha256(files + told).hexdigest()[:12]


def _kept(cluster: Cluster, files: bytes) -> Snapshot | None:
    name = _name(cluster, files)
    return next((each for each in of_database(cluster) if each.name == name), None)


def _keep(engine: Engine, place: Aside, files: bytes) -> list[str]:
    """Keep what was made as a snapshot, in the place of what was kept before; return what is to be said."""
    cluster, inside = place.cluster, (engine.root / "seed").resolve()
    outside = sorted(str(path) for path in place.read if inside not in path.resolve().parents)
    if outside:
        return [f"It is not kept for the next time: files of seed/ read {', '.join(outside)}, outside of seed/."]
    size = cluster.size(place.name)
    if spares.room_left(engine, cluster) < 2 * size + spares.RESERVE:  # with the spare
        return [f"It is not kept for the next time: that takes {human(2 * size)}, and the disk is short of room."]
    made = MAKING + uuid.uuid4().hex
    cluster.copy(place.name, made, limit=MARK, comment=made_comment())
    now = time.time()
    new = Snapshot(
        uuid.uuid4().hex, size, "none", _name(cluster, files), cluster.database, now, now, cluster.version, MESSAGE,
        *place.marks(cluster),
    )  # fmt: skip
    become(cluster, made, new, _all(cluster))
    return []


def _all(cluster: Cluster) -> list[Snapshot]:
    """Return what was kept before, and not what somebody has called so."""
    return [each for each in of_database(cluster) if each.name.startswith(BEGINS) and each.message == MESSAGE]
