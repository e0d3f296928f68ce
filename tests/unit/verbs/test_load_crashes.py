"""`load`, `seed` and `undo` killed at any moment, and the server with them: the old or the new is there, complete."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stack.engines.embedded.engine import Embedded
from stack.verbs import dump, load, spares, undo, up
from tests import crashes
from tests.unit.conftest import embedded
from tests.unit.verbs.test_snapshot_crashes import ask, content, crash

CRASHES = int(os.environ.get("STACK_LOAD_CRASHES", "30"))
"""STACK_LOAD_CRASHES=200 is what a release is tried with."""
ROLES = "SELECT count(*)::int, '' FROM pg_roles WHERE rolname LIKE 'crew%'"


@pytest.fixture
def engine(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Embedded]:
    monkeypatch.setattr(spares, "go_on_in_background", spares.keep_ready)
    monkeypatch.setattr(spares, "in_background", lambda _: None)
    with embedded(programs, tmp_path) as made:
        up.bring_up(made, 60, pull=False, wait=True)
        ask(made, "ALTER SYSTEM SET fsync = off")  # what is killed is the server, not the machine
        ask(made, "SELECT pg_reload_conf()")
        crashes.fill(lambda statement: ask(made, statement), 3000)
        (tmp_path / "seed").mkdir()
        yield made


@pytest.mark.slow
def test_crashes_leave_the_old_or_the_new(engine: Embedded) -> None:
    chance, rows = random.Random(7), content(engine)[1]  # noqa: S311 - the same moments each time
    dump.dump(engine, str(engine.root / "x.dump"))
    crashed = now = 0
    back: set[int] = set()  # what `undo` may bring back
    while crashed < CRASHES:
        now += 1
        old = content(engine)[0]
        what = chance.choice(["load", "archive", "seed", "undo"] if back else ["load", "seed"])
        failed = crash(engine, chance, work(engine, what, now), 0.4 if what == "undo" else 1.5)
        crashed += failed
        state, found = content(engine)
        new = {"load": {now}, "archive": {0}, "seed": {now}, "undo": back}[what]
        assert found == rows
        assert state in new | ({old} if failed else set()), what
        back = ({old} if state != old or not failed else set()) | (back | {old} if failed else set())
        if failed:
            spares.clear(engine)
            assert ask(engine, ROLES) == (0, "") or state == now
            left = "SELECT count(*)::int, '' FROM pg_database WHERE datname ~ '^stack-(?!undo)'"
            assert ask(engine, left) == (0, "")
        if what in ("load", "seed") and state == now:
            ask(engine, f"DROP OWNED BY crew{now}; DROP ROLE crew{now}")


def work(engine: Embedded, what: str, now: int) -> Callable[[], None]:
    """Return what makes `now` the state of the database, in many commits, and all its rows anew."""
    text = (
        "DROP TABLE IF EXISTS state, filler;\nCREATE TABLE state AS SELECT {n} AS n;\n"
        "CREATE TABLE filler AS SELECT n, repeat(md5(n::text), 60) AS f FROM generate_series(1, 1) AS n;\n"
        "CREATE TABLE crews (n int);\nALTER TABLE crews OWNER TO crew{n};\nDROP TABLE crews;\n"
        "GRANT SELECT ON TABLE state TO crew{n};\n"
        + "".join(
            f"INSERT INTO filler SELECT n, repeat(md5(n::text), 60) FROM generate_series({n}, {n + 99}) AS n;\n"
            for n in range(2, 3001, 100)
        )
        + "DELETE FROM filler WHERE n > 3000;\nCREATE INDEX ON filler (n);\n"
    ).replace("{n}", str(now))

    def run() -> None:
        if what == "undo":
            undo.undo(engine)
        elif what == "archive":
            load.load(engine, str(engine.root / "x.dump"), clean=True, yes=True)
        elif what == "load":
            (engine.root / "x.sql").write_text(text)
            load.load(engine, str(engine.root / "x.sql"), clean=True, yes=True)
        else:
            (engine.root / "seed" / "x.sql").write_text(text)
            load.seed(engine)

    return run
