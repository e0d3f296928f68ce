"""The verbs on the pool: copies of a snapshot that are kept ready, and handed out in the server to whoever asks."""

from __future__ import annotations

import json
import time

from stack.engines.base import Engine
from stack.ground.errors import Refused, StackError
from stack.ground.tables import print_columns
from stack.ground.talk import counted, give, human, live, say
from stack.verbs import exchange, keeper, leases, spares, store
from stack.verbs.leases import Copy, Pool
from stack.verbs.login import administrator

SIZE = 16
"""Copies, where nobody says how many."""
MOST = 1000
"""The most that can be asked for: each is a directory of some three hundred files."""
PATIENCE = 60.0
"""Seconds in which one more copy is to be ready."""


def wanted(typed: str) -> int:
    """Return how many copies are wanted. Raises Refused for what is no such number."""
    if not (size := typed or str(SIZE)).isdecimal() or not 0 < int(size) <= MOST:
        raise Refused(f"--size {typed} is no number of copies: from 1 to {MOST}. Nothing was done.")
    return int(size)


def make(engine: Engine, name: str, size: int) -> None:
    """Keep `size` copies of a snapshot, in the place of the pool that is there; return when they are ready.

    Raises Refused when there is no such snapshot, StackError when there is no room.
    """
    with exchange.at_work(engine) as cluster:
        leases.check(cluster)
        before = leases.pool_of(cluster)
        its = [each for each in store.every_one(cluster) if before and each.id == before.of and not name]
        snapshot = its[0] if its else store.find_one(cluster, name)
        missing = size - len(leases.copies(cluster))
        if (room := spares.room_left(engine, cluster)) < missing * snapshot.size + spares.MARGIN:
            raise StackError(
                f"There is no room for {counted(size, 'database')} like {snapshot.name}: each takes"
                f" {human(snapshot.size)}, and {human(room)} of the disk are free. Nothing was done. Choose a smaller"
                " --size, or make room."
            )
        spares.take_over(cluster)
        leases.begin(cluster, Pool(snapshot.id, store.typed(snapshot.name), size))
    keeper.go_on(engine)
    spares.go_on_in_background(engine)  # what was at work on a spare has been ended
    _wait(engine, size)
    say(
        f"{counted(size, 'database')} like {snapshot.name} are there. In {leases.HOME}, `SELECT stack.take()` hands one"
        " out; with the end of that session it is dropped, and a new one made. `invoke drop-pool` ends that."
    )


def _wait(engine: Engine, size: int) -> None:
    """Wait until all copies are there, ready or handed out. Raises StackError when no more are made."""
    with administrator(engine, "invoke") as cluster, live() as show:
        before, since = -1, time.monotonic()
        while (there := _number(leases.copies(cluster))) < size:
            pool = leases.pool_of(cluster)
            if not pool:
                raise StackError("The pool was ended meanwhile, by another command.")
            if pool.why_not:
                raise StackError(f"There are {there} of {size} databases. No more can be made now: {pool.why_not}")
            if there != before:
                before, since = there, time.monotonic()
                show(f"{counted(size, 'database')}, of which {there} are there")
            if time.monotonic() - since > PATIENCE:
                raise StackError(f"There are {there} of {size} databases, and no more were made. Type `invoke doctor`.")
            time.sleep(0.02)


def _number(copies: list[Copy]) -> int:
    return sum(each.ready or each.leased for each in copies)


def end(engine: Engine) -> None:
    """End the pool; copies that are handed out go with the sessions that have them. Raises Refused without one."""
    with exchange.at_work(engine) as cluster:
        leased = sum(each.leased for each in leases.copies(cluster))
        spares.take_over(cluster)
        if not leases.end(cluster):
            raise Refused("There is no pool, so nothing was done.")
    spares.in_background(engine)
    rest = f" {counted(leased, 'database')} of it will go with the sessions that took them."
    say(f"Ended the pool.{rest * bool(leased)}")


def print_it(engine: Engine, *, as_json: bool) -> None:
    """Print what the pool is of, and how many copies are ready and taken."""
    with administrator(engine, "invoke") as cluster:
        pool, there = leases.pool_of(cluster), leases.copies(cluster)
        names = {each.id: each.name for each in store.every_one(cluster)}
        size = sum(each.size for each in store.all_stored(cluster) if each.is_pooled)
        if (pool or there) and not leases.is_kept(cluster):
            spares.in_background(engine, "keep")  # it was killed
    name = names.get(pool.of, pool.typed) if pool else ""
    ready, taken = sum(each.ready for each in there), [each.name for each in there if each.leased]
    if as_json:
        told = {"snapshot": name, "ready": ready, "taken": taken, "bytes": size}
        give(json.dumps({**told, "size": pool.size, "why_not": pool.why_not} if pool else None, indent=2))
    elif pool:
        row = (name, str(pool.size), str(ready), str(len(taken)), human(size))
        print_columns(("SNAPSHOT", "SIZE", "READY", "TAKEN", "BYTES"), [row])
        if pool.why_not:
            say(f"No more can be made now: {pool.why_not}")
    else:
        say("There is no pool. `invoke pool SNAPSHOT` makes one.")
