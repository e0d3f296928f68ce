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


@pytest.fixture
def engine(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Embedded]:
    monkeypatch.setattr(spares, "go_on_in_background", spares.keep_ready)
    monkeypatch.setattr(spares, "in_background", lambda _: None)
    with embedded(programs, tmp_path) as made:
        up.bring_up(made, 60, pull=False, wait=True)
        ask(made, "ALTER SYSTEM SET fsync = off")  # what is killed is the server, not the machine
        ask(made, "SELECT pg_reload_conf()")
        crashes.fill(lambda statement: ask(made, statement), crashes.ROWS)
        (tmp_path / "seed").mkdir()
        yield made


@pytest.mark.slow
def test_crashes_leave_the_old_or_the_new(engine: Embedded) -> None:
    chance = random.Random(7)  # noqa: S311 - the same moments each time
    dump.dump(engine, str(engine.root / "x.dump"))
    crashes.old_or_new(
        CRASHES,
        chance,
        content=lambda: content(engine),
        crash=lambda what, now: crash(engine, chance, work(engine, what, now), 0.4 if what == "undo" else 1.5),
        tidy=lambda: spares.clear(engine),
        ask=lambda statement: ask(engine, statement),
    )


def work(engine: Embedded, what: str, now: int) -> Callable[[], None]:
    def run() -> None:
        if what == "undo":
            undo.undo(engine)
        elif what == "archive":
            load.load(engine, str(engine.root / "x.dump"), clean=True, yes=True)
        elif what == "load":
            (engine.root / "x.sql").write_text(crashes.anew(now))
            load.load(engine, str(engine.root / "x.sql"), clean=True, yes=True)
        else:
            (engine.root / "seed" / "x.sql").write_text(crashes.anew(now))
            load.seed(engine)

    return run
