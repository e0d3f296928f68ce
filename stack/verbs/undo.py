"""One step back: what was replaced or dropped last comes back, in the place of what is there now."""

from __future__ import annotations

import json
import uuid
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from stack.engines.base import Engine
from stack.ground.errors import Refused
from stack.ground.talk import say
from stack.server.admin import Cluster
from stack.verbs import convex_tables, drop, exchange, facts, spares, store
from stack.verbs.drop import Beside, Kept
from stack.verbs.forks import forks, point
from stack.verbs.halves import Halves
from stack.verbs.restore import wait_for_convex

NOTHING = (
    "There is nothing to undo: no load, seed, fresh, restore or drop-snapshot has replaced or dropped anything, or it"
    " went since, to make room or with its fork. `invoke snapshots` shows what there is to go back to."
)
AGAIN = "Typed again, `invoke undo` takes that back."
UNDONE = "undone"
"""The fact by which a snapshot is known that was brought back."""


def undo(engine: Engine, *, yes: bool = False) -> None:
    """Bring back what was replaced or dropped last. Typed again, it undoes itself.

    Ends the sessions on the database. Raises Refused when there is nothing to bring back.
    """
    half = None
    with exchange.at_work(engine) as cluster:
        kept, undone = drop.kept_back(cluster), _undone(cluster)
        its = kept.was.database if kept else undone.database if undone else ""
        if its in {each.name for each in forks(cluster)}:  # there is one step, whichever database it was
            point(cluster, its)
        spares.take_over(cluster)
        if not kept and undone:
            said = _drop_again(cluster, undone)
        elif kept and kept.is_snapshot:
            said = _bring_back_snapshot(cluster, kept)
        else:
            kept = _of_ours(cluster, kept)
            half = _half(engine, cluster, kept)
            said = _bring_back(engine, cluster, kept, half, yes=yes)
        spares.tell_and_tidy(engine, cluster)
    spares.go_on_in_background(engine)
    if half:
        wait_for_convex(engine)
    say(said)


def _undone(cluster: Cluster) -> store.Snapshot | None:
    """Return the snapshot that `undo` has brought back last."""
    told = {each.name: facts.read_json(each.comment) for each in store.all_stored(cluster) if each.is_snapshot}
    return next((each for each in store.every_one(cluster) if told[each.stored].get(UNDONE) is True), None)


def _of_ours(cluster: Cluster, kept: Kept | None) -> Kept:
    if not kept:
        raise Refused(NOTHING)
    if kept.was.database != cluster.database:
        raise Refused(
            f"What could be brought back is {kept}, and the database of this stack is {cluster.database} now. Nothing"
            f" was done. Set POSTGRES_DB={kept.was.database}, then type the command again."
        )
    return kept


def _half(engine: Engine, cluster: Cluster, kept: Kept) -> Beside | None:
    """Return what is kept of the Convex of now, when another comes back; else None. Raises Refused when it is gone."""
    convex = engine.convex
    if not kept.was.convex or not convex:
        return None
    what, its = str(kept), kept.was.convex_in
    convex_tables.refuse_another_home(engine, what, its, "`invoke snapshots` shows what else there is to go back to.")
    tables = store.convex_of(kept.stored) if its else ""
    convex_tables.refuse_gone(cluster, what, (Halves(engine, cluster).of(kept.stored), tables))
    return Beside(uuid.uuid4().hex, *(convex.image() if convex.directory() else ("", "")), convex.database())


def _bring_back(engine: Engine, cluster: Cluster, kept: Kept, half: Beside | None, *, yes: bool) -> str:
    """Let the user's database and the kept one exchange names, in one transaction, and Convex follow."""
    if not kept.was.pg:
        return _bring_back_convex(engine, cluster, kept, half)
    there = cluster.oid(cluster.database) is not None
    if there:
        spares.refuse_prepared(cluster, cluster.database)
        spares.ask_what_goes(cluster, cluster.database, set(), keep=True, yes=yes)
    spares.tell_sessions(cluster)
    cluster.end_sessions(cluster.oid(kept.stored))
    stand_in = drop.make_stand_in(cluster, kept.stored, half) if half and not there else ""
    along = _along(engine, cluster, kept, half, kept.stored) if half else nullcontext()
    with along, cluster.alone(cluster.database), cluster.transaction():
        aside = _out_of_the_way(cluster, kept)
        cluster.allow(aside, anybody=True, limit=kept.was.limit, template=kept.was.template)
        cluster.set_comment(aside, kept.was.comment)
        if there:
            drop.keep_back(cluster, "undo", whatever=True, half=half or Beside())
        elif half:
            drop.keep_convex_back(cluster, stand_in, "undo", half)
        _exchange_tables(cluster, kept, half)
        cluster.rename(aside, cluster.database)
    again = f" {AGAIN}" if there else ""
    are = f"{cluster.database} and Convex are as they were" if half else f"{cluster.database} is as it was"
    return f"{are} before `invoke {kept.by}`, {kept.moment}.{again}"


def _bring_back_convex(engine: Engine, cluster: Cluster, kept: Kept, half: Beside | None) -> str:
    """Let Convex's directory and the kept one exchange names."""
    if not half:
        raise Refused(NOTHING)
    stand_in = drop.make_stand_in(cluster, kept.stored, half)
    with _along(engine, cluster, kept, half, ""), cluster.transaction():
        drop.keep_convex_back(cluster, stand_in, "undo", half)
        _exchange_tables(cluster, kept, half)
    return f"Convex is as it was before `invoke {kept.by}`, {kept.moment}. {AGAIN}"


def _along(engine: Engine, cluster: Cluster, kept: Kept, half: Beside, database: str) -> AbstractContextManager[None]:
    """Let the kept directory go with the database that takes the user's place within; empty: alone."""
    return exchange.along(engine, cluster, (kept.stored, store.UNDO + half.digits), database)


def _exchange_tables(cluster: Cluster, kept: Kept, half: Beside | None) -> None:
    """Let Convex's tables go with it where they are in the server, within the transaction."""
    if half and half.tables:
        convex_tables.exchange(cluster, store.convex_of(kept.stored), half.tables, store.UNDO + half.digits)


def _bring_back_snapshot(cluster: Cluster, kept: Kept) -> str:
    """Make a snapshot again of one that was dropped."""
    taken = {each.name for each in store.of_database(cluster)}
    free = (kept.was.name, *(f"{kept.was.name}-{n}" for n in range(2, len(taken) + 3)))
    was = replace(kept.was, name=next(name for name in free if name not in taken))
    cluster.end_sessions(cluster.oid(kept.stored))
    with cluster.transaction():
        cluster.rename(kept.stored, was.stored)
        cluster.set_comment(was.stored, json.dumps({**json.loads(was.facts()), UNDONE: True}))
    also = "" if was.name == kept.was.name else f" as {was.name}, since there is another one of its name"
    return f"The snapshot {kept.was.name} is back{also}. {AGAIN}"


def _drop_again(cluster: Cluster, snapshot: store.Snapshot) -> str:
    """Drop a snapshot again that was brought back."""
    drop.clear_out(cluster, snapshot)
    with cluster.transaction():
        drop.keep_snapshot_back(cluster, snapshot)
    return f"Deleted the snapshot {snapshot.name} again. {AGAIN}"


def _out_of_the_way(cluster: Cluster, kept: Kept) -> str:
    """Give what is kept another name, so that it is not given up for what is about to be."""
    name = store.MAKING + kept.stored[len(store.UNDO) :]
    cluster.rename(kept.stored, name)
    return name
