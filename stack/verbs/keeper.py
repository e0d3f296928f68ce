"""The process that keeps the copies of a pool: it makes them, and drops what was given back, one at a time."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress

from stack.engines.base import Engine
from stack.ground.errors import StackError
from stack.ground.talk import human
from stack.server.admin import Cluster
from stack.server.session import LoginFailed
from stack.verbs import facts, kept, leases, spares, store, wipe
from stack.verbs.drop import drop_one, reason_of
from stack.verbs.login import administrator

GONE = 10.0
"""Seconds that a server may be away, as one is that recovers from a crash; then it was stopped, and so are we."""
HANDOVER = 2.0
"""Seconds in which the session of a keeper that was killed is gone."""
OFTEN, SELDOM = 0.1, 5.0
"""Seconds after which it looks by itself: while a copy is handed out, since a session that ends tells nobody; else."""


def in_background(engine: Engine) -> None:
    """Do what a command has left to the background, then keep the pool, if there is one, as long as the server runs."""
    pool = spares.keep_ready(engine)
    kept.give_way(engine)
    with suppress(StackError):
        wipe.sweep(engine)
    kept.prepare_next(engine)
    if pool:
        keep(engine)


def give_up_kept(engine: Engine) -> None:
    """Make room: delete what a reset has kept for the next one."""
    wipe.give_up_kept(engine)


def go_on(engine: Engine) -> None:
    """Let the pool, if there is one, be kept by another process, and wait until it is at work."""
    if not any((engine.root / "data").glob(".*-snapshots")):  # without a snapshot there is no pool
        return
    with suppress(StackError), administrator(engine, "invoke") as cluster:
        if not leases.in_use(cluster):
            return
        deadline = time.monotonic() + GONE
        spares.in_background(engine, "keep")
        while not leases.is_kept(cluster) and time.monotonic() < deadline:
            time.sleep(0.05)


def keep(engine: Engine) -> None:
    """Keep the pool until there is none, the server is stopped, or another process does it.

    A checkout whose folder is gone keeps nothing either.
    """
    import psycopg

    lost = time.monotonic()
    while engine.root.exists() and time.monotonic() - lost < GONE:
        try:
            with administrator(engine, store.KEEPER) as proved:
                cluster = proved.again()
        except (StackError, LoginFailed):
            time.sleep(0.5)
            continue
        with suppress(psycopg.Error, LoginFailed), cluster.connection:
            _keep(engine, cluster)
            return
        lost = time.monotonic()


def _keep(engine: Engine, cluster: Cluster) -> None:
    """Keep the pool as long as the session lasts, if nobody else does."""
    cluster.connection.execute(f"LISTEN {leases.CHANNEL}".encode())
    while leases.in_use(cluster):
        deadline = time.monotonic() + HANDOVER
        while not cluster.rows("SELECT WHERE pg_try_advisory_lock(%s)", leases.KEEPER):
            if time.monotonic() > deadline:
                return
            time.sleep(0.1)
        while engine.root.exists():
            outcome = _step(engine, cluster)
            if outcome is None:
                break
            _hear(cluster, busy=outcome)
        # Who made a pool a moment ago has seen a keeper at work, and relies on it: so look again without the lock.
        cluster.rows("SELECT pg_advisory_unlock(%s)", leases.KEEPER)
        if not engine.root.exists():
            return


def _hear(cluster: Cluster, *, busy: bool) -> None:
    """Take what we are told, and wait until we are told something if there was nothing to do.

    A session that is not read from gets stuck when it is told much, and whoever drops a database then waits for it.
    """
    seconds = 0.001 if busy else OFTEN if any(each.leased for each in leases.copies(cluster)) else SELDOM
    for _ in cluster.connection.notifies(timeout=seconds, stop_after=None if busy else 1):
        pass


def _step(engine: Engine, listener: Cluster) -> bool | None:
    """Do all that is wanted, in a session that a command may end; return whether to go on at once, None: no pool."""
    import psycopg

    try:
        cluster = listener.again()
        with cluster.connection:
            while engine.root.exists():
                cluster.rows("SELECT pg_advisory_lock(%s)", store.MAKER)
                outcome = _do(engine, cluster)
                if not outcome:
                    return outcome
                cluster.rows("SELECT pg_advisory_unlock_all()")  # what is claimed as well
                _hear(listener, busy=True)
            return False
    except (psycopg.Error, StackError, LoginFailed):
        listener.rows("SELECT")  # which fails when the server has gone; else a command is at work
        time.sleep(0.2)
        return True


def _do(engine: Engine, cluster: Cluster) -> bool | None:
    """Do what is most wanted, and return whether there was anything; None: no pool."""
    pool, there = leases.pool_of(cluster), leases.copies(cluster)
    if not pool and not there:
        return None
    for each in there:
        if not each.ready and not each.leased and leases.claim(cluster, each):
            stored = [its for its in store.all_stored(cluster) if its.name == each.name and its.ours]
            if stored and not drop_one(cluster, stored[0]):
                return True
    if any(each.ready for each in there) and (not pool or len(there) > pool.size):
        cluster.rows("SELECT nextval('stack.turn')")  # the one that is in turn is not handed out any more
        return True
    return bool(pool and len(there) < pool.size and _make(engine, cluster, pool))


def _make(engine: Engine, cluster: Cluster, pool: leases.Pool) -> bool:
    """Make a copy, and return whether that was possible; else the reason is written down."""
    import psycopg

    why_not = ""
    found = [each for each in store.every_one(cluster) if each.id == pool.of]
    try:
        if not found:
            why_not = "its snapshot is gone. `invoke pool NAME` takes another one, `invoke drop-pool` ends the pool."
        elif (room := spares.room_left(engine, cluster)) < found[0].size + spares.MARGIN:
            why_not = f"there is no room: a copy takes {human(found[0].size)}, and {human(room)} of the disk are free."
        else:
            made = store.MAKING + uuid.uuid4().hex
            cluster.copy(found[0].stored, made, limit=facts.MARK, comment=facts.made_comment())
            with cluster.transaction():
                cluster.allow(made, anybody=True, limit=facts.MARK)
                cluster.rename(made, leases.free_name(cluster))
    except (psycopg.Error, StackError) as error:
        if cluster.connection.closed:
            raise
        why_not = reason_of(error)
    if why_not != pool.why_not:
        leases.tell(cluster, pool._replace(why_not=why_not))
    return not why_not
