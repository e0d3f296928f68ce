"""Convex's directory goes with the database, though a kill or a crash comes between the two.

A mark in data/ tells of an exchange from before it begins until it is done: an empty directory, whose name says which
directories and which database. The database decides: once it has the user's name, Convex's directory follows.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stack.engines.backend import Convex
from stack.engines.base import Engine, need
from stack.ground import files
from stack.ground.errors import StackError
from stack.ground.talk import say
from stack.server.admin import Cluster
from stack.server.session import LoginFailed
from stack.verbs import convex_tables
from stack.verbs.forks import point
from stack.verbs.halves import Halves
from stack.verbs.login import administrator
from stack.verbs.store import OURS, WORK

if TYPE_CHECKING:
    from typing_extensions import Self

BEGINS = ".restoring-"


class Mark(NamedTuple):
    """An exchange that is under way: `source` takes the place of Convex's directory, which becomes `target`."""

    path: Path
    oid: int
    """The database that takes the place of the user's in it; 0: none does, and that of `target` stands for it."""
    source: str
    target: str

    @classmethod
    def read(cls, path: Path, identifier: str) -> Self | None:
        """Return what a directory's name says; None when it is no mark of that cluster's."""
        part = "([a-z]+-[0-9a-f]{32})"
        found = re.fullmatch(rf"{re.escape(BEGINS)}{identifier}-(\d+)-{part}-{part}", path.name)
        return cls(path, int(found[1]), f"stack-{found[2]}", f"stack-{found[3]}") if found else None


def marks(root: Path) -> list[Path]:
    """Return the marks of a checkout, whichever cluster they belong to."""
    return sorted((root / "data").glob(f"{BEGINS}*"))


def forget(root: Path) -> None:
    """Take the marks away: what they tell of is about to be deleted."""
    for mark in marks(root):
        with suppress(OSError):
            mark.rmdir()


@contextmanager
def along(
    engine: Engine, cluster: Cluster, names: tuple[str, str], database: str, by: Cluster | None = None
) -> Iterator[None]:
    """Let Convex's directory go with a `database` that takes the user's place within; empty: it goes alone.

    `names` are those of the databases of ours whose directories the new one is and the old one becomes. The backend is
    stopped meanwhile, if it runs, and started again at the end. Nobody is in its tables then, where they are in the
    server; the session that exchanges them is `by`, or else the cluster's own.
    """
    source, target = names
    convex, halves = need(engine.convex, engine), Halves(engine, cluster)
    oid = (cluster.oid(database) if database else 0) or 0
    name = f"{BEGINS}{halves.identifier}-{oid}-{source.removeprefix('stack-')}-{target.removeprefix('stack-')}"
    mark = Mark(halves.data / name, oid, source, target)
    mark.path.mkdir()
    files.sync_directory(halves.data)
    ran = False
    try:
        ran = convex.stop()
        with convex_tables.alone(by or cluster, convex.database()):
            yield
    except BaseException:
        _take_back(cluster, convex, halves, mark, ran=ran)
        raise
    _finish(halves, mark)
    _start(convex, ran=ran)


def _take_back(cluster: Cluster, convex: Convex, halves: Halves, mark: Mark, *, ran: bool) -> None:
    """End an exchange that has failed; where the server cannot be asked how, the next command does."""
    import psycopg

    try:
        _decide(cluster, halves, mark)
    except (psycopg.Error, LoginFailed, StackError):
        say("Whether Convex is to follow cannot be asked now, so it stays stopped. `invoke up` finishes that.")
    else:
        _start(convex, ran=ran)


@contextmanager
def at_work(engine: Engine, fork: str = "", *, gone: bool = False) -> Iterator[Cluster]:
    """Log in to make, exchange or drop what is ours, once what a command that died has left half-way is settled.

    It is of a `fork` where one is named, else of the user's database. Raises as `administrator` and `point` do.
    """
    with administrator(engine, WORK) as cluster:
        settle(engine, cluster)
        if fork:
            point(cluster, fork, gone=gone)
        yield cluster


def settle(engine: Engine, cluster: Cluster) -> bool:
    """Finish or take back what a command that died has left half-way; return whether there was anything."""
    convex, there = engine.convex, marks(engine.root)
    if not convex or not there:
        return False
    halves = Halves(engine, cluster)
    found = [mark for path in there if (mark := Mark.read(path, halves.identifier))]
    for mark in found:
        convex.stop()
        _decide(cluster, halves, mark)
        convex.start()
    return bool(found)


def settle_after_start(engine: Engine) -> bool:
    """Do the same as a command of its own."""
    if not engine.convex or not marks(engine.root):
        return False
    with administrator(engine, WORK) as cluster:
        return settle(engine, cluster)


def _decide(cluster: Cluster, halves: Halves, mark: Mark) -> None:
    if mark.oid:  # one of ours has not got the user's name
        done = cluster.rows("SELECT FROM pg_database WHERE oid = %s::oid AND datname !~ %s", mark.oid, OURS)
    else:
        done = cluster.rows("SELECT FROM pg_database WHERE datname = %s", mark.target)
    if not done:
        mark.path.rmdir()
        say("A restore or load was interrupted before it took effect: the database and Convex are as before it.")
        return
    _finish(halves, mark)
    say("A restore or load was interrupted between the database and Convex: Convex has followed now.")


def _finish(halves: Halves, mark: Mark) -> None:
    """Let the directories exchange their names, from wherever that has come to. Raises StackError."""
    home, source, target = halves.data / "convex", halves.of(mark.source), halves.of(mark.target)
    if source.exists():
        if home.exists() and not target.exists():
            home.rename(target)
            files.sync_directory(halves.data)
        if home.exists():
            kept = halves.data / f"convex.{uuid.uuid4().hex[:8]}"
            home.rename(kept)
            say(f"{home} had been made anew meanwhile, as Docker does: that is kept as {kept}.")
        source.rename(home)
        files.sync_directory(halves.data)
    elif not target.exists():
        mark.path.rmdir()
        raise StackError(
            f"Convex could not follow the database: {source}, which was to take the place of {home}, is gone."
            f" {home} is as it was before.",
            cure="Type `invoke undo`, or `invoke restore NAME` for a snapshot that is whole.",
        )
    mark.path.rmdir()
    files.sync_directory(halves.data)


def _start(convex: Convex, *, ran: bool) -> None:
    if ran:
        with suppress(StackError):  # whoever waits for it says why it does not run
            convex.start()
