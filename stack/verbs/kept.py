"""What a `reset` has made, kept whole beside the data: the next one with the same seed and settings begins with it.

It is a copy of the cluster from the moment after the seed, and is only kept when nobody else had written to it by then.
It is never started: a second copy of it, the next, is made in the background and takes the place of the data by a
rename. What made it stands in a file of its own, written last; without that file it is given up.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stack.engines.base import Engine, need
from stack.ground import disk, files, regular
from stack.ground.errors import StackError
from stack.ground.trash import KEPT
from stack.server.admin import Cluster
from stack.verbs import wipe
from stack.verbs.filled import Aside
from stack.verbs.recipe import outside, recipe
from stack.verbs.seeds import found
from stack.verbs.spares import RESERVE, room_left, waiting
from stack.verbs.store import OURS

if TYPE_CHECKING:
    from typing_extensions import LiteralString

_WAL = 50_000_000
"""Bytes of a copy beside its databases: the server's log, and what all databases share."""
_NOT_COPIED: LiteralString = f"""
SELECT FROM pg_database WHERE datname NOT IN ('template0', 'template1', 'postgres', %s) AND datname !~ '{OURS}'
UNION ALL SELECT FROM pg_tablespace WHERE starts_with(pg_tablespace_location(oid), '/')
UNION ALL SELECT FROM pg_replication_slots UNION ALL SELECT FROM pg_subscription
UNION ALL SELECT FROM pg_prepared_xacts"""  # noqa: S608 - a constant
"""What no copy has, or has of somebody else's: another service makes its database anew when it finds none."""
_FILES: LiteralString = """
SELECT count(size), coalesce(sum(size), 0)::bigint, coalesce(bool_or(relpersistence = 'u'), false)
FROM pg_class, LATERAL (SELECT size FROM pg_stat_file(pg_relation_filepath(pg_class.oid), true)) AS its
WHERE pg_class.oid >= 16384 AND relkind IN ('r', 'm', 't', 'S')"""
"""The files of the user's tables and their bytes: what a copy has lost shows. And whether one of them is unlogged."""
_FINISH = "VACUUM (ANALYZE, TRUNCATE false);\n\n"
"""What the server itself does within minutes of a seed, and not in a copy: that has lost the counts of what changed."""


class Kept(NamedTuple):
    """What stands in the file."""

    made_of: str
    """The fingerprint of all that makes it."""
    name: str
    """The directory of the copy."""
    files: list[int | bool]
    """What _FILES tells of the user's database in it."""


def _marker(root: Path) -> Path:
    return root / "data" / KEPT


def _read(root: Path) -> Kept | None:
    with suppress(OSError, ValueError, TypeError):
        there = Kept(**json.loads(regular.text(root / "data", KEPT)))
        return there if there.name.startswith(f"{KEPT}-") and "/" not in there.name else None
    return None


def _next(first: Path) -> Path:
    return first.with_name(f"{first.name}-next")


def made_of(engine: Engine) -> str:
    """Return the fingerprint of all that a reset makes the data of; empty when nothing is to be kept of it.

    Raises Refused when a file of seed/ cannot be read.
    """
    place = need(engine.data, engine).place()
    if not engine.copies or not isinstance(place, Path) or place.parent != engine.root / "data":
        return ""
    if engine.convex and engine.convex.database():  # it would have its tables in the same cluster
        return ""
    wanted, cluster = recipe(engine.root, found(engine)[0]), engine.copies.made_of()
    return (
        hashlib.sha256(repr((cluster, wanted.runs[-1:])).encode()).hexdigest() if cluster and not wanted.silent else ""
    )


def take(engine: Engine, wanted: str) -> Kept | None:
    """Put what is kept in the place of the data, which is empty, and return it; None when it is not the same.

    What is kept of something else is given up.
    """
    there, place = _read(engine.root), need(engine.data, engine).place()
    if not there or not wanted or there.made_of != wanted or not isinstance(place, Path):
        wipe.give_up_kept(engine)
        return None
    with suppress(StackError, OSError):
        first = place.with_name(there.name)
        if not _next(first).exists():
            with waiting("a copy of what was kept of the last reset"):
                _make_next(engine, first, fcntl.LOCK_EX)
        if place.exists():
            place.rmdir()
        _next(first).rename(place)
        files.sync_directory(place.parent)
        return there
    wipe.give_up_kept(engine)
    return None


def check(there: Kept, cluster: Cluster) -> None:
    """Raise StackError when files are missing in what was put in the place of the data."""
    if _files(cluster) != there.files:
        raise StackError("Files are missing in it.")


def give_way(engine: Engine) -> None:
    """Give it up when room is short: it is the first to go."""
    if disk.free(engine.root / "data") < RESERVE:
        wipe.give_up_kept(engine)


def keep(place: Aside, wanted: str) -> None:
    """Keep the cluster as it is after the seed, unless somebody else has written to it; `place` tells that.

    A copy that fails is none: it is a convenience.
    """
    import psycopg

    if not wanted or not place.untouched:
        return
    with suppress(StackError, OSError, psycopg.Error), waiting("a copy of the new data, for the next reset"):
        # seed/ may have been written to meanwhile.
        if not outside(place.engine.root, place.read) and made_of(place.engine) == wanted:
            _keep(place.engine, place.cluster, wanted, place.untouched)
    wipe.tidy(place.engine)


def _keep(engine: Engine, cluster: Cluster, wanted: str, last: int) -> None:
    size = int(cluster.rows("SELECT sum(pg_database_size(oid)) FROM pg_database")[0][0]) + _WAL
    seen = _files(cluster)
    unlogged = seen[-1]  # no backup has what is in such a table
    if unlogged or cluster.rows(_NOT_COPIED, cluster.database) or room_left(engine, cluster) < 2 * size + RESERVE:
        return
    name, made = f"{KEPT}-{uuid.uuid4().hex}", _new(engine)
    with need(engine.copies, engine).backup(made) as copying:
        copying.ready()
        copying.go()
        alone = cluster.transaction_id() == last + 1
        copying.finish()
    if alone:
        made.rename(made.with_name(name))
        files.sync_directory(made.parent)
        files.write_text(_marker(engine.root), json.dumps(Kept(wanted, name, seen)._asdict()), mode=0o600)


def prepare_next(engine: Engine) -> None:
    """Make the copy that the next reset takes, in the background, if there is none."""
    if not (there := _read(engine.root)):
        return
    try:
        _make_next(engine, _marker(engine.root).with_name(there.name), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except StackError:  # it is damaged
        wipe.give_up_kept(engine)
    except OSError:  # another process is at it, or it has just been given up
        return


def _make_next(engine: Engine, first: Path, lock: int) -> None:
    """Copy it, one process at a time, and let its server end cleanly: it starts at once then.

    Raises StackError, OSError.
    """
    with _marker(engine.root).open() as marker:
        fcntl.flock(marker, lock)  # until it is closed, or the process dies
        there = _read(engine.root)
        given_up = not there or there.name != first.name
        if given_up or _next(first).exists() or disk.free(first.parent) < (wipe.size(engine, first) or 0) + RESERVE:
            return
        copies, made = need(engine.copies, engine), _new(engine)
        with copies.copy(made, first) as copying:
            copying.ready()
            copying.go()
            copying.finish()
        if endpoint := engine.endpoint():
            copies.alone(made, _FINISH, endpoint.database)
        made.rename(_next(first))
        files.sync_directory(first.parent)


def _new(engine: Engine) -> Path:
    made = engine.root / "data" / f".new-kept-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    made.mkdir(0o700)
    return made


def _files(cluster: Cluster) -> list[int | bool]:
    with cluster.within(cluster.database) as session:
        return list(session.execute(_FILES).fetchall()[0])
