"""Two commands at once, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.integration.checkout import (
    INVOKE,
    configure,
    containers,
    environment,
    eventually,
    login,
    run,
    sql,
    succeed,
    tables,
)


def begin(copy: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*INVOKE, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=copy, env=environment(), start_new_session=True,
    )  # fmt: skip


@contextmanager
def ended(*children: subprocess.Popen[str]) -> Iterator[None]:
    """End what still runs when the block is left."""
    try:
        yield
    finally:
        for child in children:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()


def can_login(copy: Path) -> bool:
    try:
        login(copy).close()
    except psycopg.OperationalError:
        return False
    return True


def finish(child: subprocess.Popen[str], timeout: float = 60) -> str:
    """Wait until it ends, and return its stderr."""
    _, said = child.communicate(timeout=timeout)
    assert "Traceback" not in said, said
    return said


@pytest.fixture
def waiting(copy: Path) -> Path:
    """A copy in which `up` waits for ever, for a database that never gets healthy."""
    never = "services: {postgres: {healthcheck: {test: ['CMD', 'false']}}}"
    (copy / "docker-compose.never.yml").write_text(never)
    configure(copy, STACK_LAYERS="dev,alone,never")
    return copy


@pytest.mark.alone
@pytest.mark.parametrize(
    ("send", "number", "code"),
    [(os.killpg, signal.SIGINT, 130), (os.kill, signal.SIGTERM, 143)],
    ids=["Ctrl-C", "TERM"],
)
def test_an_up_that_waits_ends_when_it_is_interrupted(
    waiting: Path, send: Callable[[int, int], None], number: int, code: int
) -> None:
    child = begin(waiting, "up")
    with ended(child):
        eventually(lambda: can_login(waiting))
        send(child.pid, number)
        assert "Interrupted" in finish(child, timeout=10)
    assert child.returncode == code
    begun = time.monotonic()
    said = run(waiting, "down").stderr
    assert "Another command" not in said  # the lock is free
    assert time.monotonic() - begun < 15
    assert containers(waiting) == {}


@pytest.mark.alone
def test_a_first_start_that_is_interrupted_can_be_stopped_at_once(copy: Path) -> None:
    child = begin(copy, "up")
    with ended(child):
        eventually(lambda: "postgres" in containers(copy, "status=running"))  # initdb is at work
        os.killpg(child.pid, signal.SIGINT)
        finish(child, timeout=10)
    begun = time.monotonic()
    succeed(copy, "down")
    assert time.monotonic() - begun < 20
    succeed(copy, "up")
    assert tables(copy) == []


def running(copy: Path, words: str) -> list[int]:
    """Return the servers' processes that run a query with these words in it."""
    others = f"SELECT pid FROM pg_stat_activity WHERE query LIKE '%{words}%' AND state = 'active'"
    return sql(copy, f"{others} AND pid <> pg_backend_pid()", dbname="postgres")


@pytest.mark.parametrize("args", [("-c", "SELECT 'slow', pg_sleep(30)"), ("-f", "slow.sql")], ids=["-c", "-f"])
def test_ctrl_c_ends_the_query_of_psql_too(shared: Path, args: tuple[str, str]) -> None:
    (shared / "slow.sql").write_text("SELECT 'slow', pg_sleep(30);")
    child = begin(shared, "psql", *args)
    with ended(child):
        eventually(lambda: running(shared, "slow"))
        os.killpg(child.pid, signal.SIGINT)
        finish(child, timeout=10)
    try:
        eventually(lambda: not running(shared, "slow"), timeout=5)
    finally:
        sql(shared, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%slow%pg_sleep%'"
                    " AND pid <> pg_backend_pid()")  # fmt: skip
    assert child.returncode != 0


@pytest.mark.alone
def test_ctrl_c_leaves_nothing_of_the_seed_that_it_interrupts(started: Path) -> None:
    padding = "-- more than what is read ahead\n" * 100_000
    text = f"CREATE TABLE half ();\nSELECT 'slow', pg_sleep(3);\n{padding}CREATE TABLE whole ();\n"
    (started / "seed/010.sql").write_text(text)
    child = begin(started, "seed")
    with ended(child):
        eventually(lambda: running(started, "slow"))
        os.killpg(child.pid, signal.SIGINT)
        finish(child, timeout=10)
    assert child.returncode == 130
    eventually(lambda: not running(started, "slow"))
    eventually(lambda: not sql(started, "SELECT 1 FROM pg_stat_activity WHERE application_name = 'psql'"))
    assert tables(started) == []


def test_following_the_logs_ends_with_ctrl_c(shared: Path) -> None:
    child = begin(shared, "logs", "--follow")
    with ended(child):
        assert child.stdout
        assert child.stdout.readline()
        os.killpg(child.pid, signal.SIGINT)
        finish(child, timeout=10)
    assert child.returncode in {0, 130}
    assert run(shared, "status").returncode == 0


def test_two_ups_at_once_both_succeed(copy: Path) -> None:
    children = [begin(copy, "up"), begin(copy, "up")]
    with ended(*children):
        said = [finish(child) for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    assert len(containers(copy)) == 3
    assert tables(copy) == []


def test_up_and_down_at_once_leave_a_whole_stack_or_none(started: Path) -> None:
    sql(started, "CREATE TABLE kept ()")
    children = [begin(started, "down"), begin(started, "up")]
    with ended(*children):
        said = [finish(child) for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    assert run(started, "status").returncode in {0, 3}
    succeed(started, "up")
    assert tables(started) == ["kept"]
