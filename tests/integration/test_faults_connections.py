"""Nobody gets in any more: every command says why, who has the connections, and a way that works."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.integration.checkout import (
    configure,
    containers,
    docker,
    eventually,
    fail,
    login,
    run,
    sql,
    succeed,
    tables,
    value,
)

ROOM = 10
"""Sessions that the server of these tests has room for."""


@pytest.fixture
def up(either: Path) -> Path:
    """A stack with a table to lose and room for ten sessions."""
    succeed(either, "up")
    sql(either, "CREATE TABLE kept ()")
    sql(either, "ALTER SYSTEM SET max_connections = 10")
    sql(either, "ALTER SYSTEM SET max_wal_senders = 5")
    succeed(either, "restart", "postgres")
    return either


@contextmanager
def taken(copy: Path, **who: str) -> Iterator[int]:
    """Take connections until there has been no more for a second, in which a health check ends; yield how many.

    What works in the background has its own a while longer.
    """
    with ExitStack() as held:
        number, last = 0, time.monotonic()
        while time.monotonic() < last + (1 if number >= ROOM or who else 20):
            try:
                held.enter_context(login(copy, application_name="greedy", **who))
            except psycopg.OperationalError:
                time.sleep(0.05)
                continue
            number, last = number + 1, time.monotonic()
        yield number


@pytest.mark.slow
def test_a_superuser_that_takes_all_connections_is_named_by_every_command(up: Path, tmp_path: Path) -> None:
    some = tmp_path / "some.sql"
    some.write_text("SELECT 1")
    succeed(up, "snapshot", "before")
    (up / "seed" / "100.sql").write_text("SELECT 1")
    with taken(up) as number:
        assert number == 10
        cause = "ll 10 connections of the server are taken"
        who = f"(process {os.getpid()})"
        saying = (cause, "10 by ", "user postgres", "convex_poc", who, "`invoke restart postgres`")
        for command in (
            ("up",), ("wait-healthy",), ("snapshot",), ("restore", "before"), ("snapshots",), ("dump", "x.dump"),
            ("load", str(some)), ("seed",),
        ):  # fmt: skip
            said = fail(up, 1, *command, saying=saying, within=30)
            assert "doctor" not in said, "a circle"
            assert "half-made" not in said + "reset"
        for words_typed in (["psql", "-c", "SELECT 1"], ["status"], ["doctor"]):
            result = run(up, *words_typed)
            assert result.returncode in (1, 2)
            for words in saying:
                assert words in result.stdout + result.stderr, (words_typed, words, result.stdout + result.stderr)
        assert not (up / "x.dump").exists()
        succeed(up, "restart", "postgres")  # the cure, typed
        succeed(up, "status")
    succeed(up, "up")
    assert tables(up) == ["kept"]


@pytest.mark.slow
def test_a_container_that_is_unhealthy_because_it_is_full_says_so(up: Path) -> None:
    if value(up, "STACK_ENGINE") == "embedded":
        pytest.skip("it has no health check")
    server = containers(up)["postgres"]
    with taken(up):
        health = "{{.State.Health.Status}}"
        eventually(lambda: docker("inspect", "--format", health, server) == "unhealthy", timeout=60)
        for word in ("status", "up", "wait-healthy", "doctor"):
            result = run(up, word)
            assert result.returncode == 1
            assert (
                "all 10 connections of the server are taken: 10 by the user postgres" in result.stdout + result.stderr
            )
            assert "`invoke restart postgres`" in result.stdout + result.stderr
        rows = json.loads(run(up, "status", "--json").stdout)["services"]
        assert "all 10 connections" in next(row["health"] for row in rows if row["service"] == "postgres")
        succeed(up, "restart", "postgres")
    succeed(up, "status")


def test_an_application_that_is_no_superuser_leaves_us_a_way_in(up: Path) -> None:
    sql(up, "CREATE ROLE app LOGIN PASSWORD 'app'")
    with taken(up, user="app", password="app") as number:
        assert number == 7
        succeed(up, "up")
        succeed(up, "psql", "-c", "SELECT 1")
        found = json.loads(run(up, "doctor", "--json").stdout)["findings"]
        said = next(row for row in found if row["check"] == "connections")
        assert said["state"] == "warning"
        assert "7 by greedy (user app, database convex_poc, idle)" in said["message"]
        assert f"(process {os.getpid()})" in said["message"]


def test_limits_of_a_database_and_of_a_role(up: Path) -> None:
    sql(up, "CREATE ROLE app LOGIN PASSWORD 'app'")
    boss = {"user": "postgres", "password": "postgres"}
    configure(up, POSTGRES_USER="app", POSTGRES_PASSWORD="app")
    succeed(up, "up")
    for kind, name in (("DATABASE", "convex_poc"), ("ROLE", "app")):
        sql(up, f"ALTER {kind} {name} CONNECTION LIMIT 2", **boss)
        with taken(up):
            cause = f"all connections that the {kind.lower()} {name!r} is allowed are taken: 2 by greedy (user app,"
            fail(up, 1, "up", saying=(cause, f"ALTER {kind} … CONNECTION LIMIT -1"), within=30)
            assert cause in run(up, "doctor").stdout
        sql(up, f"ALTER {kind} {name} CONNECTION LIMIT -1", **boss)
    succeed(up, "up")


def test_a_database_that_lets_nobody_in_is_opened_by_doctor(up: Path) -> None:
    sql(up, "ALTER DATABASE convex_poc ALLOW_CONNECTIONS false", dbname="postgres")
    cause = "'convex_poc' lets nobody in (ALLOW_CONNECTIONS is false)"
    fail(up, 1, "up", saying=(cause, "Nothing of it is lost", "`invoke doctor --fix`"), within=30)
    assert cause in run(up, "doctor").stdout
    succeed(up, "doctor", "--fix")
    succeed(up, "up")
    assert tables(up) == ["kept"]


def test_a_password_that_has_expired_is_no_circle(up: Path) -> None:
    sql(up, "ALTER ROLE postgres VALID UNTIL '2020-01-01'")
    fail(up, 1, "up", saying=("`invoke doctor --fix`",), within=30)
    succeed(up, "doctor", "--fix")
    succeed(up, "up")
