"""What must hold however often snapshot, restore and the server are killed, whichever way they are started."""

from __future__ import annotations

import random
from collections.abc import Callable

CONTENT = "SELECT n, (SELECT count(*) || '/' || sum(filler.n) || '/' || sum(length(f)) FROM filler) FROM state"


def fill(sql: Callable[[str], object], rows: int) -> None:
    """Make a table of 2 kB a row, whose content is told by its sums, and one for the state of the database."""
    text = "repeat(md5(n::text), 60)"
    sql(f"CREATE TABLE filler AS SELECT n, {text} AS f FROM generate_series(1, {rows}) AS n")
    sql("CREATE TABLE state AS SELECT 0 AS n")


def lose_nothing(
    crashes: int,
    chance: random.Random,
    *,
    sql: Callable[[str], object],
    content: Callable[[], tuple[int, str]],
    crash: Callable[[str, bool], bool],
    names: Callable[[], set[str]],
    take: Callable[[str], object],
    restore: Callable[[str], object],
) -> int:
    """Take snapshots and restore them, each time with a crash, until there were `crashes`; return how many are left.

    `content` gives the state of the database, and its sums. `crash` takes a snapshot of a name or restores it, kills
    something meanwhile, and returns False when it was done before.
    """
    whole = content()[1]
    take("a")
    kept = {"a": {0}}  # each snapshot, and which states of the database it may hold
    maybe: dict[str, set[int]] = {}  # those that only a command that was killed may have made
    now = crashed = 0
    while crashed < crashes:
        now += 1
        sql(f"UPDATE state SET n = {now}")
        name = chance.choice("abcd")
        restoring = name in kept and chance.random() < 0.6
        failed = crash(name, restoring)
        crashed += failed
        state, rows = content()
        assert rows == whole
        if restoring:
            assert state in kept[name] | ({now} if failed else set())
            kept[name] = kept[name] if state == now else {state}
            continue
        assert state == now
        if not failed:
            kept[name] = {now}
            maybe.pop(name, None)
        else:
            (kept if name in kept else maybe).setdefault(name, set()).add(now)
    there = names()
    assert set(kept) <= there <= {*kept, *maybe}
    for name in there:
        restore(name)
        state, rows = content()
        assert rows == whole
        assert state in {**maybe, **kept}[name]
    return len(there)
