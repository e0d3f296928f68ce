"""What must hold however often a command and the server are killed, whichever way they are started."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

CONTENT = "SELECT n, (SELECT count(*) || '/' || sum(filler.n) || '/' || sum(length(f)) FROM filler) FROM state"
ROWS = 3000
"""Of `filler`, as `anew` makes it."""


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


def old_or_new(
    crashes: int,
    chance: random.Random,
    *,
    content: Callable[[], tuple[int, str]],
    crash: Callable[[str, int], bool],
    tidy: Callable[[], object],
    ask: Callable[[str], object],
) -> Counter[str]:
    """Change the database in every way that `undo` takes back, each time with a crash, until there were `crashes`.

    `archive` brings 0 back as the state, `load` and `seed` make a new one, by what `anew` returns. `crash` does one of
    these or `undo`, kills something meanwhile, and returns False when it was done before. `tidy` is what the next
    command would begin with, `ask` a query for the database. Returns how often the old was there, and the new.
    """
    rows = content()[1]
    now, ends = 0, Counter[str]()
    back: set[int] = set()  # what `undo` may bring back
    while sum(ends.values()) < crashes:
        now += 1
        old = content()[0]
        what = chance.choice(["load", "archive", "seed", "undo"] if back else ["load", "seed"])
        failed = crash(what, now)
        state, found = content()
        new = {"load": {now}, "archive": {0}, "seed": {now}, "undo": back}[what]
        assert found == rows
        assert state in new | ({old} if failed else set()), what
        back = ({old} if state != old or not failed else set()) | (back | {old} if failed else set())
        if failed:
            ends[f"{what}: the {'old' if state == old else 'new'}"] += 1
            tidy()
            assert content() == (state, rows)  # nothing was at work any more
            assert not ask(f"SELECT rolname, '' FROM pg_roles WHERE rolname ~ '^crew' AND rolname <> 'crew{state}'")
            assert not ask("SELECT datname, '' FROM pg_database WHERE datname ~ '^stack[-_](?!undo)'")
        if what in ("load", "seed") and state == now:
            ask(f"DROP OWNED BY crew{now}; DROP ROLE crew{now}")
    return ends


def anew(now: int) -> str:
    """Return SQL that makes `now` the state of the database, in many commits, and all its rows anew."""
    return (
        (
            "DROP TABLE IF EXISTS state, filler;\nCREATE TABLE state AS SELECT {n} AS n;\n"
            "CREATE TABLE filler AS SELECT n, repeat(md5(n::text), 60) AS f FROM generate_series(1, 1) AS n;\n"
            "CREATE TABLE crews (n int);\nALTER TABLE crews OWNER TO crew{n};\nDROP TABLE crews;\n"
            "GRANT SELECT ON TABLE state TO crew{n};\n"
            + "".join(
                f"INSERT INTO filler SELECT n, repeat(md5(n::text), 60) FROM generate_series({n}, {n + 99}) AS n;\n"
                for n in range(2, ROWS + 1, 100)
            )
            + "DELETE FROM filler WHERE n > {rows};\nCREATE INDEX ON filler (n);\n"
        )
        .replace("{n}", str(now))
        .replace("{rows}", str(ROWS))
    )
