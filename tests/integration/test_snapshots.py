"""Save points on the real engines, through the commands that a user types."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tests import crashes
from tests.integration import checkout
from tests.integration.checkout import (
    INVOKE,
    SHOP,
    environment,
    eventually,
    fail,
    keepers,
    login,
    run,
    sql,
    succeed,
    tables,
)
from tests.integration.terminal import Terminal
from tests.integration.test_engines import checksum, copy_for, kill

CRASHES = 10
"""Of a hundred; the others are in the unit tests, where there is no container to wait for."""


@pytest.fixture(params=["docker", "embedded"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def started(engine: str, template: Path, tmp_path: Path) -> Iterator[Path]:
    with copy_for(engine, template, tmp_path / checkout.unique()) as made:
        succeed(made, "up")
        yield made
        run(made, "down")


def listed(copy: Path) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in json.loads(succeed(copy, "snapshots", "--json"))}


def databases(copy: Path) -> list[str]:
    """What is in the cluster beside the user's database and PostgreSQL's own."""
    return sql(copy, "SELECT datname FROM pg_database WHERE datname LIKE 'stack_%' ORDER BY 1")


def is_ready(copy: Path, name: str) -> bool:
    return bool(listed(copy)[name]["spare"] == "ready")


def test_a_developers_day(started: Path) -> None:
    sql(started, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    said = run(started, "snapshot", "before it", "-m", "all is well")
    assert said.returncode == 0
    assert "`invoke restore 'before it'`" in said.stderr
    eventually(lambda: is_ready(started, "before it"))  # though the command has ended
    row = listed(started)["before it"]
    assert (row["message"], row["database"]) == ("all is well", "convex_poc")
    assert row["bytes"] > 1_000_000
    with login(started, application_name="the app"):
        sql(started, "DROP TABLE kept")
        said = run(started, "restore")
        assert said.returncode == 0
        assert "Ending 1 session on convex_poc: the app" in said.stderr
        assert "made first" not in said.stderr
    assert sql(started, "SELECT count(*) FROM kept") == [1000]
    sql(started, "CREATE TABLE new ()")
    succeed(started, "restore", "before it", "--keep")
    assert tables(started) == ["kept"]
    succeed(started, "restore")  # the newest: what was kept
    assert tables(started) == ["kept", "new"]
    assert "before it" in succeed(started, "snapshots")
    fail(started, 2, "snapshot", "before it", saying=("already", "--replace"))
    fail(started, 2, "drop-snapshot", "before it", saying=("--yes", "nothing was touched"))
    succeed(started, "drop-snapshot", "before it", "--yes")
    assert "before it" not in listed(started)
    succeed(started, "down")
    fail(started, 1, "snapshot", saying=("not running", "invoke up"))
    succeed(started, "up")
    assert len(listed(started)) == 1


@pytest.mark.parametrize(
    "name", ['"; DROP DATABASE convex_poc; --', "-rf", "🎉", "a" * 200, "reset-data", "%00", "$(id)"]
)
def test_names_are_stored_or_refused_never_run(module_stack: Path, name: str) -> None:
    succeed(module_stack, "snapshot", f"--name={name}" if name.startswith("-") else name)
    assert name in listed(module_stack)
    assert tables(module_stack) == ["kept"]
    succeed(module_stack, "drop-snapshot", f"--name={name}", "--yes")
    assert name not in listed(module_stack)


@pytest.fixture(scope="module")
def module_stack(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with copy_for("docker", template, tmp_path_factory.mktemp("names") / checkout.unique()) as made:
        succeed(made, "up")
        sql(made, "CREATE TABLE kept ()")
        yield made


def test_names_that_are_none(module_stack: Path) -> None:
    fail(module_stack, 2, "snapshot", "-x", saying=("-x",))
    fail(module_stack, 2, "snapshot", "a" * 201, saying=("200", "Nothing was done"))
    fail(module_stack, 2, "snapshot", "two\nlines", saying=("one line",))
    for words in ("two\nlines", "\x1b[2J", "\x1b]0;title\x07", "\u202e", "\r"):
        fail(module_stack, 2, "snapshot", "x", "-m", words, saying=("Nothing was done",))
        fail(module_stack, 2, "snapshot", words, saying=("Nothing was done",))
        said = fail(module_stack, 2, "restore", words, saying=("no snapshot",))
        assert not said or words not in said
    fail(module_stack, 2, "restore", "two words", saying=("no snapshot",))
    fail(module_stack, 2, "restore", "two", "words", saying=("words",))
    assert tables(module_stack) == ["kept"]


def test_reset_data_names_what_goes_with_it_and_offers_a_dump(started: Path) -> None:
    sql(started, "CREATE TABLE kept AS SELECT 42 AS n")
    succeed(started, "snapshot", "precious")
    succeed(started, "down")
    assert "snapshots precious" in run(started, "reset-data", "--dry-run").stderr  # though the server is down
    succeed(started, "up")
    terminal = Terminal(started, "reset-data")
    terminal.expect("snapshots precious")
    terminal.expect("(d: dump the database first) [y/N]")
    terminal.type("d\n")
    terminal.expect("Wrote")
    terminal.expect("[y/N]")
    terminal.type("y\n")
    assert terminal.wait() == 0
    terminal.close()
    succeed(started, "up")
    assert listed(started) == {}
    (dump,) = (started / "backups").iterdir()
    succeed(started, "load", str(dump))
    assert sql(started, "SELECT n FROM kept") == [42]
    assert "precious" not in run(started, "reset-data", "--dry-run").stderr


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_a_dump_survives_the_cluster_row_by_row(started: Path, tmp_path: Path) -> None:
    for file in ("010_schema.sql", "020_rows.sql"):
        shutil.copy(SHOP / file, started / "seed")
    succeed(started, "seed")
    before, dump = checksum(started), tmp_path / "shop.dump"
    assert len([line for line in before.splitlines() if "|" in line]) >= 24
    succeed(started, "dump", str(dump))
    succeed(started, "reset-data", "--yes")
    succeed(started, "up")
    assert checksum_or_nothing(started) != before
    succeed(started, "load", str(dump))
    assert checksum(started) == before
    succeed(started, "snapshot", "shop")
    sql(started, "DROP SCHEMA public CASCADE")
    succeed(started, "restore")
    assert checksum(started) == before


def test_on_a_terminal_one_sees_how_far_it_is(module_stack: Path, tmp_path: Path) -> None:
    sql(module_stack, "CREATE TABLE much AS SELECT n, md5(n::text) AS m FROM generate_series(1, 300000) AS n")
    for words, shown in (
        (("dump", str(tmp_path / "x.dump")), "Dumping"),
        (("load", str(tmp_path / "x.dump")), "Loading"),
    ):
        terminal = Terminal(module_stack, *words)
        terminal.expect(shown)
        terminal.expect("MB")
        assert terminal.wait(60) == 0
        terminal.close()
        sql(module_stack, "DROP TABLE IF EXISTS much, kept")
    assert tables(module_stack) == []
    succeed(module_stack, "load", str(tmp_path / "x.dump"))
    assert tables(module_stack) == ["kept", "much"]
    sql(module_stack, "DROP TABLE much")


def checksum_or_nothing(copy: Path) -> str:
    return run(copy, "psql", "-f", str(SHOP / "checksum.sql")).stdout


def test_ctrl_c_in_the_middle_of_a_copy_leaves_nothing(started: Path) -> None:
    grow(started, megabytes=300)
    with subprocess.Popen([*INVOKE, "snapshot", "never"], cwd=started, env=environment(), start_new_session=True,
                          stderr=subprocess.PIPE, text=True) as child:  # fmt: skip
        assert child.stderr
        line = child.stderr.readline()
        assert "waiting for a copy of convex_poc" in line
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 130
        assert "Traceback" not in child.stderr.read()
    assert sql(started, "SELECT count(*) > 0 FROM filler") == [True]
    assert listed(started) == {}
    eventually(lambda: databases(started) == [])


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_crashes_lose_nothing(started: Path) -> None:
    """Kill the command, the server, or what works in the background, at any moment; then look what is there."""
    chance = random.Random(1)  # noqa: S311 - the same moments each time
    grow(started, megabytes=20)
    left = crashes.lose_nothing(
        CRASHES,
        chance,
        sql=lambda statement: sql(started, statement),
        content=lambda: content(started),
        crash=lambda name, restoring: crash(
            started, chance, ["restore", name] if restoring else ["snapshot", name, "--replace"]
        ),
        names=lambda: set(listed(started)),
        take=lambda name: succeed(started, "snapshot", name),
        restore=lambda name: succeed(started, "restore", name),
    )
    eventually(lambda: len(databases(started)) == left + 2, timeout=60)  # the spare, and what `undo` brings back


def grow(copy: Path, megabytes: int) -> None:
    crashes.fill(lambda statement: sql(copy, statement), megabytes * 512)


def content(copy: Path) -> tuple[int, str]:
    """Return the state of the database, and its size and sums."""
    with login(copy) as session:
        row = session.execute(crashes.CONTENT).fetchone()
    assert row
    return row[0], row[1]


def crash(copy: Path, chance: random.Random, args: list[str]) -> bool:
    """Run a command and kill something at a random moment; return False when the command has said that it is done."""
    child = subprocess.Popen([*INVOKE, *args], cwd=copy, env=environment(), start_new_session=True,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
    victim = chance.choice(["command", "server", "both", "background"])
    assert child.stderr
    with child:
        time.sleep(chance.uniform(0.2, 0.7))
        if victim == "background":
            for process in keepers(copy):
                with suppress(psutil.NoSuchProcess):  # its work may just be done
                    process.kill()
        if victim in ("command", "both"):
            os.killpg(child.pid, signal.SIGKILL)
        if victim in ("server", "both"):
            kill(copy, "docker", "everything")
        _, said = child.communicate(timeout=60)
    assert "Traceback" not in said
    if victim in ("server", "both"):
        succeed(copy, "up")
    return child.returncode != 0


def test_whoever_is_kept_waiting_gets_in(started: Path) -> None:
    grow(started, megabytes=200)
    with subprocess.Popen([*INVOKE, "snapshot", "slow"], cwd=started, env=environment(), stderr=subprocess.PIPE,
                          text=True) as child:  # fmt: skip
        assert child.stderr
        assert "waiting" in child.stderr.readline()
        # Whoever comes before the copy has its lock is among the sessions that it ends.
        eventually(lambda: sql(started, COPIES, dbname="postgres") == [True])
        with psycopg.connect(**{**login_words(started), "connect_timeout": 60}) as session:
            assert session.execute("SELECT 1").fetchone() == (1,)
        child.stderr.read()
        assert child.wait() == 0


COPIES = """
SELECT EXISTS (SELECT FROM pg_locks WHERE classid = 'pg_database'::regclass AND mode = 'ShareLock' AND granted
               AND objid = (SELECT oid FROM pg_database WHERE datname = 'convex_poc'))
"""


def login_words(copy: Path) -> dict[str, Any]:
    names = {"port": "POSTGRES_PORT", "user": "POSTGRES_USER", "password": "POSTGRES_PASSWORD", "dbname": "POSTGRES_DB"}
    return {"host": "127.0.0.1", **{key: checkout.value(copy, name) for key, name in names.items()}}


def test_diff_tells_what_has_changed_since(started: Path) -> None:
    fail(started, 2, "diff", saying=("There is no snapshot",))
    sql(started, "CREATE TABLE kept AS SELECT generate_series(1, 10) AS n")
    succeed(started, "snapshot", "one")
    assert succeed(started, "diff", "--data") == ""
    sql(started, "ALTER TABLE kept ADD x int")
    sql(started, "DELETE FROM kept WHERE n > 7")
    told = run(started, "diff")
    assert told.returncode == 1
    assert "+    x integer" in told.stdout
    told = run(started, "diff", "one", "--data", "--json")
    assert told.returncode == 1
    assert json.loads(told.stdout)["tables"] == [{"table": "public.kept", "before": 10, "after": 7}]
    assert sql(started, "SELECT count(*) FROM pg_database WHERE datname LIKE 'stack_%' AND datallowconn") == [0]
