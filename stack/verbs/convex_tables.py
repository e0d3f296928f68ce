"""Convex's tables where they are in our server: the database of them goes with each of ours, in one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stack.engines.base import Engine
from stack.ground.errors import Refused, StackError
from stack.server.admin import Cluster
from stack.verbs import spares
from stack.verbs.facts import MARK, made_comment
from stack.verbs.store import SPARE, Snapshot, all_stored, convex_of


def home(engine: Engine) -> str:
    """Return the database in which Convex keeps its tables; empty where they are in its directory."""
    return engine.convex.database() if engine.convex else ""


def copy(engine: Engine, cluster: Cluster, own: str) -> str:
    """Copy them, and return the name of the copy. Raises StackError."""
    if cluster.oid(own) is None:
        raise StackError(
            f"There is no database {own!r}, in which Convex keeps its tables. Nothing was done.",
            cure="Type `invoke up`, which makes it; or save the database alone: `invoke snapshot --only pg`.",
        )
    spares.refuse_prepared(cluster, own)
    return spares.make_copy(engine, cluster, own, own, cluster.size(own))


def spare(engine: Engine, cluster: Cluster, snapshot: Snapshot) -> str:
    """Return the name of a copy of a snapshot's that may be given away, which is made if it has to be."""
    name, stored = convex_of(SPARE + snapshot.id), convex_of(snapshot.stored)
    if any(each.name == name and each.is_ready for each in all_stored(cluster)):
        return name
    return spares.make_copy(engine, cluster, stored, f"Convex's part of {snapshot.name}", cluster.size(stored))


def refuse_another_home(engine: Engine, what: str, its: str, without: str) -> None:
    """Raise Refused when Convex keeps its state elsewhere than it did in `what`, whose tables were in `its` database.

    `without` is the way on without Convex.
    """
    elsewhere = engine.convex.elsewhere() if engine.convex else None
    here, there = home(engine), f"the database {its}" if its else "its directory"
    if elsewhere or bool(its) != bool(here):
        place = elsewhere or (f"the database {here}" if here else "its directory")
        raise Refused(
            f"Convex keeps its tables in {place} here, and in {what} they were in {there}, by other layers. Nothing was"
            " done.",
            cure=f"Switch to those (STACK_LAYERS), then type the command again. {without}",
        )


def refuse_gone(cluster: Cluster, what: str, parts: tuple[Path, str], without: str = "") -> None:
    """Raise Refused when the directory of `what` is gone, or its database, which is empty where it has none."""
    directory, tables = parts
    gone = "" if directory.is_dir() else str(directory)
    if tables and cluster.oid(tables) is None:
        gone = f"the database {tables}"
    if gone:
        raise Refused(f"Convex's part of {what} is gone: {gone} does not exist. Nothing was done.", cure=without)


@contextmanager
def alone(cluster: Cluster, own: str) -> Iterator[None]:
    """Let nobody be in them while they are exchanged; Convex itself is stopped. Nothing where there are none."""
    if own and cluster.oid(own) is not None:
        with cluster.alone(own):
            yield
    else:
        yield


def exchange(cluster: Cluster, new: str, own: str, kept: str) -> None:
    """Let a copy take the place of those that are there, which go with what is `kept`, within a transaction."""
    if cluster.oid(own) is not None:
        cluster.allow(own, anybody=False, limit=MARK)
        cluster.set_comment(own, made_comment())
        cluster.rename(own, convex_of(kept))
    cluster.allow(new, anybody=True, limit=-1)
    cluster.set_comment(new, None)
    cluster.rename(new, own)
