"""Snapshots of a server that is killed, and by commands that are killed, at any moment."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from stack import ready, snapshots
from stack.embedded import Embedded
from stack.process import StackError
from tests.unit.conftest import embedded

CRASHES = 30
"""Of a hundred, three times; the others are in the integration tests."""
CONTENT = "SELECT n, (SELECT count(*) || '/' || sum(filler.n) || '/' || sum(length(f)) FROM filler) FROM state"


@pytest.fixture
def engine(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Embedded]:
    monkeypatch.setattr(snapshots, "_go_on_in_background", snapshots.keep_ready)
    with embedded(programs, tmp_path) as made:
        up(made)
        ask(made, "ALTER SYSTEM SET fsync = off")  # what is killed is the server, not the machine
        ask(made, "SELECT pg_reload_conf()")
        ask(made, "CREATE TABLE filler AS SELECT n, repeat(md5(n::text), 60) AS f FROM generate_series(1, 8000) AS n")
        ask(made, "CREATE TABLE state AS SELECT 0 AS n")
        yield made


def up(engine: Embedded) -> None:
    ready.bring_up(engine, 60, pull=False, wait=True)


def ask(engine: Embedded, sql: str) -> tuple[int, str] | None:
    with psycopg.connect(engine.endpoint().url(masked=False), autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        return cursor.fetchone() if cursor.description else None


def content(engine: Embedded) -> tuple[int, str]:
    found = ask(engine, CONTENT)
    assert found
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_crashes_lose_nothing(engine: Embedded, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - the same moments each time
    whole = content(engine)[1]
    kept: dict[str, set[int]] = {}  # each snapshot, and which states of the database it may hold
    maybe: dict[str, set[int]] = {}  # those that only a command that was killed may have made
    now = crashes = 0
    while crashes < CRASHES:
        now += 1
        ask(engine, f"UPDATE state SET n = {now}")
        name = chance.choice("abcd")
        restoring = name in kept and chance.random() < 0.6

        def work(name: str = name, restoring: bool = restoring) -> None:
            if restoring:
                snapshots.restore(engine, name)
            else:
                snapshots.take(engine, name, overwrite=True)

        crashed = crash(engine, chance, work)
        crashes += crashed
        state, rows = content(engine)
        assert rows == whole
        if restoring:
            assert state in kept[name] | ({now} if crashed else set())
            kept[name] = kept[name] if state == now else {state}
            continue
        assert state == now
        if not crashed:
            kept[name] = {now}
            maybe.pop(name, None)
        else:
            (kept if name in kept else maybe).setdefault(name, set()).add(now)
    there = {each.name for each in snapshots.listed(engine)}
    assert set(kept) <= there <= {*kept, *maybe}
    for name in there:
        snapshots.restore(engine, name)
        state, rows = content(engine)
        assert rows == whole
        assert state in {**maybe, **kept}[name]
    ours = "SELECT count(*), '' FROM pg_database WHERE datname LIKE 'stack-%'"
    assert ask(engine, ours) == (len(there) + 1, "")  # and the spare


def crash(engine: Embedded, chance: random.Random, work: Callable[[], None]) -> bool:
    """Let a process work and kill it, the server or both at a random moment; return False when it was done before."""
    victim, delay = chance.choice(["command", "server", "both"]), chance.uniform(0, 0.4)
    done = multiprocessing.get_context("fork").Event()

    def run() -> None:
        try:
            work()
        except StackError:
            os._exit(1)
        done.set()
        os._exit(0)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    assert child.pid
    time.sleep(delay)
    if victim in ("command", "both"):
        os.kill(child.pid, signal.SIGKILL)
    if victim in ("server", "both"):
        postmaster = psutil.Process(int(engine.running("postgres")))
        for process in (postmaster, *postmaster.children()):
            with suppress(psutil.NoSuchProcess):  # a session may just have ended
                process.kill()
        while engine.services()[0].state == "running":  # it takes a moment to die
            time.sleep(0.01)
    child.join(60)
    assert child.exitcode is not None
    up(engine)
    return not done.is_set()
