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

from stack.engines.embedded.engine import Embedded
from stack.ground.errors import StackError
from stack.verbs import restore as restore_room
from stack.verbs import snapshots, spares
from stack.verbs import up as up_room
from tests import crashes
from tests.unit.conftest import embedded

CRASHES = 30
"""Of a hundred, three times; the others are in the integration tests."""


@pytest.fixture
def engine(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Embedded]:
    monkeypatch.setattr(spares, "go_on_in_background", spares.keep_ready)
    with embedded(programs, tmp_path) as made:
        up(made)
        ask(made, "ALTER SYSTEM SET fsync = off")  # what is killed is the server, not the machine
        ask(made, "SELECT pg_reload_conf()")
        crashes.fill(lambda statement: ask(made, statement), 8000)
        yield made


def up(engine: Embedded) -> None:
    up_room.bring_up(engine, 60, pull=False, wait=True)


def ask(engine: Embedded, sql: str) -> tuple[int, str] | None:
    with psycopg.connect(engine.endpoint().url(masked=False), autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        return cursor.fetchone() if cursor.description else None


def content(engine: Embedded) -> tuple[int, str]:
    found = ask(engine, crashes.CONTENT)
    assert found
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_crashes_lose_nothing(engine: Embedded, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - the same moments each time

    def work(name: str, restoring: bool) -> None:
        if restoring:
            restore_room.restore(engine, name)
        else:
            snapshots.take(engine, name, overwrite=True)

    left = crashes.lose_nothing(
        CRASHES,
        chance,
        sql=lambda statement: ask(engine, statement),
        content=lambda: content(engine),
        crash=lambda name, restoring: crash(engine, chance, lambda: work(name, restoring)),
        names=lambda: {each.name for each in snapshots.listed(engine)},
        take=lambda name: snapshots.take(engine, name),
        restore=lambda name: restore_room.restore(engine, name),
    )
    ours = "SELECT count(*), '' FROM pg_database WHERE datname ~ '^stack[-_](?!undo)'"
    assert ask(engine, ours) == (left + 1, "")  # and the spare


def crash(engine: Embedded, chance: random.Random, work: Callable[[], None], longest: float = 0.4) -> bool:
    """Let a process work and kill it, the server or both at a random moment; return False when it was done before."""
    victim, delay = chance.choice(["command", "server", "both"]), chance.uniform(0, longest)
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
        postmaster = psutil.Process(engine.postmaster.running().pid)
        for process in (postmaster, *postmaster.children()):
            with suppress(psutil.NoSuchProcess):  # a session may just have ended
                process.kill()
        while engine.services()[0].state == "running":  # it takes a moment to die
            time.sleep(0.01)
    child.join(60)
    assert child.exitcode is not None
    up(engine)
    return not done.is_set()
