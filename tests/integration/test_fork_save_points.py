"""What can be done to a fork in the place of the user's database: snapshot, restore, undo, dump, env, psql."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.checkout import (
    ALONE,
    INVOKE,
    environment,
    eventually,
    fail,
    login,
    run,
    sql,
    succeed,
    tables,
)  # fmt: skip
from tests.integration.conftest import Make

OURS = "SELECT datname FROM pg_database WHERE datname ~ '^stack-(snapshot|undo)-' ORDER BY 1"
IN_TIME = "NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'stack-work')"
OTHER = ("--database", "brief")


@pytest.fixture
def forked(either: Path) -> Path:
    """A stack that is up, with the table `kept` and a fork of it that has `its` as well."""
    succeed(either, "up")
    sql(either, "CREATE TABLE kept AS SELECT generate_series(1, 3) AS n")
    succeed(either, "fork", "brief")
    sql(either, "CREATE TABLE its ()", dbname="brief")
    return either


@pytest.fixture(scope="module")
def forked_once(make_shared: Make) -> Path:
    """A stack of PostgreSQL alone that is up, for tests that fork it."""
    copy = make_shared(**ALONE)
    succeed(copy, "up")
    sql(copy, "CREATE TABLE kept AS SELECT generate_series(1, 3) AS n")
    return copy


def snapshots(copy: Path) -> list[tuple[str, str]]:
    return [(each["name"], each["database"]) for each in json.loads(succeed(copy, "snapshots", "--json"))]


def cure(said: str, command: str) -> list[str]:
    """Return the words of the one command of that name which a message tells to type."""
    (found,) = re.findall(f"`invoke ({command}[^`]*)`", said)
    return shlex.split(found)


def test_a_fork_is_saved_and_brought_back_and_the_database_is_not_touched(forked: Path) -> None:
    succeed(forked, "snapshot", "one")
    with login(forked) as session:
        said = run(forked, "snapshot", "one", *OTHER)
        assert said.returncode == 0, said.stderr
        assert snapshots(forked) == [("one", "brief"), ("one", "convex_poc")]
        sql(forked, "DROP TABLE its", dbname="brief")
        succeed(forked, *cure(said.stderr, "restore"))
        assert tables(forked, dbname="brief") == ["its", "kept"]
        said = run(forked, "undo")  # there is one step, and it was the fork's
        assert "brief is as it was before `invoke restore one --database=brief`" in said.stderr
        assert tables(forked, dbname="brief") == ["kept"]
        succeed(forked, "undo")
        assert tables(forked, dbname="brief") == ["its", "kept"]
        succeed(forked, "restore", "--keep", *OTHER)
        assert [of for _, of in snapshots(forked)] == ["brief", "brief", "convex_poc"]
        assert session.execute("SELECT count(*) FROM kept").fetchone() == (3,)
    assert [each["name"] for each in json.loads(succeed(forked, "forks", "--json"))] == ["brief"]
    # The spare is that of the user's database still.
    eventually(lambda: [each["spare"] for each in json.loads(succeed(forked, "snapshots", "--json"))][-1] == "ready")
    sql(forked, "DROP TABLE kept")
    assert "no spare" not in run(forked, "restore").stderr
    assert tables(forked) == ["kept"]


def test_a_snapshot_of_a_fork_is_dropped_and_goes_with_it(forked: Path) -> None:
    succeed(forked, "snapshot", "one")
    said = fail(forked, 2, "restore", *OTHER, saying=("There is no snapshot of brief",))
    succeed(forked, *cure(said, "snapshot"))
    (name,) = (name for name, of in snapshots(forked) if of == "brief")
    succeed(forked, "drop-snapshot", name, "--yes", *OTHER)
    assert snapshots(forked) == [("one", "convex_poc")]
    succeed(forked, "undo")
    succeed(forked, "undo")
    succeed(forked, "undo")
    assert snapshots(forked) == [(name, "brief"), ("one", "convex_poc")]
    succeed(forked, "restore", name, *OTHER)
    said = fail(forked, 2, "drop-fork", "brief", saying=(f"With it go its snapshots: {name}.", "nothing was touched"))
    assert (name, "brief") in snapshots(forked)
    succeed(forked, "drop-fork", "brief", "--yes")
    assert snapshots(forked) == [("one", "convex_poc")]
    assert "There is nothing to undo" in run(forked, "undo").stderr
    eventually(lambda: len(sql(forked, OURS)) == 1)
    # One that was dropped by hand leaves them, and they can still be dropped.
    succeed(forked, "fork", "brief")
    succeed(forked, "snapshot", "two", *OTHER)
    sql(forked, "DROP DATABASE brief WITH (FORCE)")
    fail(forked, 2, "restore", "two", *OTHER, saying=("'brief' is no fork",))
    succeed(forked, "drop-snapshot", "two", "--yes", *OTHER)
    assert snapshots(forked) == [("one", "convex_poc")]


def test_what_a_fork_has_saved_ends_with_its_time(forked: Path) -> None:
    succeed(forked, "snapshot", "one", *OTHER)
    succeed(forked, "restore", *OTHER)
    told = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'brief'"
    facts = {**json.loads(sql(forked, told)[0]), "until": 1}
    assert facts["fork of"] == "convex_poc"
    sql(forked, f"COMMENT ON DATABASE brief IS '{json.dumps(facts)}'")
    succeed(forked, "forks")
    eventually(lambda: not sql(forked, OURS))
    assert snapshots(forked) == []


@pytest.mark.parametrize("delay", [0.2, 0.35, 0.45, 0.55, 0.7, 1.0])
def test_a_fork_that_is_dropped_by_half_is_whole_or_gone(forked_once: Path, delay: float) -> None:
    copy = forked_once
    if "brief" not in sql(copy, "SELECT datname FROM pg_database"):
        succeed(copy, "fork", "brief")
    succeed(copy, "snapshot", "one", "--replace", *OTHER)
    succeed(copy, "restore", "one", *OTHER)
    argv = [*INVOKE, "drop-fork", "brief", "--yes"]
    with subprocess.Popen(argv, cwd=copy, env=environment(), start_new_session=True, stderr=subprocess.PIPE) as child:
        time.sleep(delay)
        os.killpg(child.pid, signal.SIGKILL)
    eventually(lambda: sql(copy, f"SELECT {IN_TIME}") == [True])
    left = sql(copy, "SELECT datname FROM pg_database WHERE datname = 'brief'")
    assert snapshots(copy) == [("one", each) for each in left]
    if left:
        succeed(copy, "undo")
        succeed(copy, "restore", "one", *OTHER)
        assert tables(copy, dbname="brief") == ["kept"]
        succeed(copy, "drop-fork", "brief", "--yes")
    eventually(lambda: not sql(copy, OURS))


def test_killed_at_any_moment_a_fork_is_the_old_or_the_new(forked_once: Path) -> None:
    copy, chance, took = forked_once, random.Random(31), 1.0  # noqa: S311
    if "brief" not in sql(copy, "SELECT datname FROM pg_database"):
        succeed(copy, "fork", "brief")
    succeed(copy, "snapshot", "one", "--replace", *OTHER)
    for turn in range(8):
        if "now" not in tables(copy, dbname="brief"):
            sql(copy, "CREATE TABLE now ()", dbname="brief")
        words = ["undo"] if turn % 3 == 2 else ["restore", "one", *OTHER]
        begun = time.monotonic()
        with subprocess.Popen([*INVOKE, *words], cwd=copy, env=environment(), stderr=subprocess.DEVNULL) as child:
            with suppress(subprocess.TimeoutExpired):
                child.wait(chance.uniform(0.1, took))
                took = max(0.5, time.monotonic() - begun)
            child.kill()
        eventually(lambda: sql(copy, f"SELECT {IN_TIME}") == [True])
        assert tables(copy, dbname="brief") in (["kept"], ["kept", "now"])
        assert tables(copy) == ["kept"]
        assert [each["name"] for each in json.loads(succeed(copy, "forks", "--json"))] == ["brief"]
    succeed(copy, "restore", "one", *OTHER)
    assert tables(copy, dbname="brief") == ["kept"]
    succeed(copy, "drop-fork", "brief", "--yes")
    eventually(lambda: not sql(copy, OURS))


@pytest.mark.parametrize("name", ["mine", "postgres", "nowhere"])
def test_what_is_no_fork_is_refused_and_those_are_named(forked: Path, name: str, tmp_path: Path) -> None:
    sql(forked, "CREATE DATABASE mine")
    file = str(tmp_path / "a.dump")
    for command in (
        ("snapshot", "one"),
        ("restore", "one"),
        ("drop-snapshot", "one", "--yes"),
        ("dump", file),
        ("env",),
    ):
        said = fail(forked, 2, *command, "--database", name, saying=(f"{name!r} is no fork", "There are: brief."))
        assert ("invoke fork" in said) == (name == "nowhere")
    if name == "nowhere":
        succeed(forked, *cure(said, "fork"))
        assert "PGDATABASE=nowhere" in succeed(forked, "env", "--database", name)
    assert snapshots(forked) == []
    assert not Path(file).exists()
    for options in (("snapshot", "one", "--only", "both"), ("restore", "--only", "convex")):
        fail(forked, 2, *options, *OTHER, saying=("A fork has no Convex",))


def test_the_name_of_the_database_itself_means_what_it_means_without(forked: Path) -> None:
    said = run(forked, "snapshot", "one", "--database", "convex_poc").stderr
    sql(forked, "DROP TABLE kept")
    succeed(forked, *cure(said, "restore"))
    assert tables(forked) == ["kept"]
    assert "PGDATABASE=convex_poc" in succeed(forked, "env", "--no-key", "--database", "convex_poc")


def test_the_settings_and_the_content_of_a_fork(forked: Path, tmp_path: Path) -> None:
    values: dict[str, Any] = json.loads(succeed(forked, "env", "--format", "json", *OTHER))
    assert values["PGDATABASE"] == "brief"
    with psycopg.connect(values["DATABASE_URL"]) as session:
        assert session.execute("SELECT count(*) FROM its").fetchone() == (0,)
    app = tmp_path / ".env.local"
    succeed(forked, "env", "--write", str(app), *OTHER)
    assert "PGDATABASE=brief" in app.read_text()
    assert succeed(forked, "psql", "--", "-At", "-d", "brief", "-c", "SELECT current_database()") == "brief\n"
    for name in ("a.dump", "a.sql"):
        file = tmp_path / name
        said = run(forked, "dump", str(file), *OTHER).stderr
        succeed(forked, *cure(said, "load"), "--clean", "--yes")
        assert tables(forked) == ["its", "kept"]
        sql(forked, "DROP TABLE its")
        assert [each["name"] for each in json.loads(succeed(forked, "forks", "--json"))] == ["brief"]
    both = tmp_path / "all.stack"
    said = fail(forked, 2, "dump", str(both), *OTHER, saying=("A fork has no Convex",))
    assert not both.exists()
    succeed(forked, *cure(said, "dump"))
    assert (forked / "my.dump").read_bytes().startswith(b"PGDMP")


@pytest.mark.parametrize("command", [("snapshot",), ("restore",), ("drop-snapshot", "x"), ("dump", "x.dump"), ("env",)])
def test_a_server_elsewhere_has_none(copy: Path, command: tuple[str, ...]) -> None:
    url = "postgresql://postgres:postgres@127.0.0.1:1/convex_poc"
    said = run(copy, *command, *OTHER, env={"STACK_ENGINE": "external", "DATABASE_URL": url})
    assert said.returncode == 2
    assert "external" in said.stderr
    assert said.stdout == ""
