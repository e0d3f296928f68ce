"""More databases beside the user's, and programs that run behind a save point."""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.checkout import eventually, fail, login, run, sql, succeed, tables, value

THERE = "SELECT datname FROM pg_database WHERE datname !~ '^(template|stack)' AND datname <> 'postgres' ORDER BY 1"


def forks(copy: Path) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in json.loads(succeed(copy, "forks", "--json"))}


def test_a_fork_is_a_database_of_its_own(either: Path) -> None:
    succeed(either, "up")
    sql(either, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    url = succeed(either, "fork").strip()
    assert url.endswith(f":{value(either, 'POSTGRES_PORT')}/convex_poc_fork_1")
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (1000,)
        connection.execute("DROP TABLE kept")
        assert forks(either)["convex_poc_fork_1"]["sessions"] == 1
    assert tables(either) == ["kept"]
    said = run(either, "fork", "another one", "--json")
    assert json.loads(said.stdout)["of"] == "convex_poc"
    assert json.loads(said.stdout)["until"] is None
    assert [*forks(either)] == ["another one", "convex_poc_fork_1"]  # the newest first
    cure = re.findall("`invoke (drop-fork) '(.*)'`", said.stderr)
    succeed(either, *cure[0], "--yes")
    assert [*forks(either)] == ["convex_poc_fork_1"]
    eventually(lambda: sql(either, THERE) == ["convex_poc", "convex_poc_fork_1"])


def test_a_fork_of_a_snapshot_disturbs_nobody_and_goes_when_its_time_is_over(either: Path) -> None:
    succeed(either, "up")
    sql(either, "CREATE TABLE before ()")
    succeed(either, "snapshot", "one")
    sql(either, "CREATE TABLE since ()")
    with login(either) as session:
        url = succeed(either, "fork", "brief", "--from", "one", "--ttl", "1h30m").strip()
        assert succeed(either, "psql", "-d", "brief", "-c", "SELECT current_database()", "--", "-At") == "brief\n"
        with psycopg.connect(url, autocommit=True) as connection:
            assert connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall() == [
                ("before",)
            ]
            its = forks(either)["brief"]
            wanted = datetime.fromisoformat(its["until"]) - datetime.fromisoformat(its["made"])
            assert wanted.total_seconds() == 5400
            told = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'brief'"
            facts = {**json.loads(sql(either, told)[0]), "until": 1}
            connection.execute(f"COMMENT ON DATABASE brief IS '{json.dumps(facts)}'".encode())
            succeed(either, "fork", "another", "--from", "one")  # whoever is over goes now
            succeed(either, "drop-fork", "another", "--yes")
            assert "brief" in forks(either)  # somebody is in it
        assert session.execute("SELECT 1").fetchone() == (1,)
        eventually(lambda: "brief" not in forks(either))
        eventually(lambda: sql(either, THERE) == ["convex_poc"])
    assert tables(either) == ["before", "since"]
    succeed(either, "restore", "one")
    assert tables(either) == ["before"]


def test_what_is_no_fork_is_left_alone(either: Path) -> None:
    succeed(either, "up")
    sql(either, "CREATE DATABASE mine")
    fail(either, 2, "drop-fork", "mine", "--yes", saying=("no fork 'mine'", "There is none"))
    fail(either, 2, "drop-fork", "convex_poc", "--yes", saying=("no fork 'convex_poc'",))
    fail(either, 2, "fork", "mine", saying=("There is a database 'mine' already",))
    for name in ("a=b", "x" * 64, "stack-spare-" + "0" * 32, " x"):
        fail(either, 2, "fork", f"--name={name}", saying=("Nothing was done.",))
    for ttl in ("soon", "1", "0h", "-1h", "1h 2m"):
        fail(either, 2, "fork", f"--ttl={ttl}", saying=("no length of time",))
    succeed(either, "fork", "yours")
    fail(either, 2, "drop-fork", "yours", saying=("nothing was touched",))
    # A copy of a fork, and a dump of one that is loaded, are the user's own.
    sql(either, "CREATE DATABASE copied TEMPLATE yours", dbname="postgres")
    assert [*forks(either)] == ["yours"]
    assert sql(either, THERE) == ["convex_poc", "copied", "mine", "yours"]


@pytest.mark.parametrize("command", [("fork",), ("forks",), ("drop-fork", "x", "--yes"), ("guard", "--", "true")])
def test_a_server_elsewhere_has_none(copy: Path, command: tuple[str, ...]) -> None:
    url = "postgresql://postgres:postgres@127.0.0.1:1/convex_poc"
    said = run(copy, *command, env={"STACK_ENGINE": "external", "DATABASE_URL": url})
    assert said.returncode
    assert "external" in said.stderr
    assert said.stdout == ""


def test_a_guarded_program_can_be_taken_back(either: Path) -> None:
    succeed(either, "up")
    sql(either, "CREATE TABLE kept ()")
    program = "import os, psycopg, sys; psycopg.connect(autocommit=True).execute('DROP TABLE kept'); sys.exit(7)"
    said = run(either, "guard", "--", sys.executable, "-c", program)
    assert said.returncode == 7, said.stderr
    assert tables(either) == []
    (cure,) = re.findall("`invoke (restore .*)` brings back what was there before", said.stderr)
    succeed(either, *cure.split())
    assert tables(either) == ["kept"]
    listed = json.loads(succeed(either, "snapshots", "--json"))
    assert listed[0]["message"].startswith(f"before {sys.executable} -c")
    # Another command of the stack is not kept waiting.
    assert "kept" in succeed(either, "guard", "--", sys.executable, "-m", "invoke", "psql", "-c", "\\d")
    before = len(json.loads(succeed(either, "snapshots", "--json")))
    fail(either, 2, "guard", saying=("Which program?",))
    fail(
        either, 2, "guard", "--", "no-such-program", saying=("no program 'no-such-program' on PATH", "nothing was done")
    )
    assert len(json.loads(succeed(either, "snapshots", "--json"))) == before
