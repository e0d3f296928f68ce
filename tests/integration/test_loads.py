"""`load`, `seed` and `undo` through the shell, on each engine: killed, refused, and taken back."""

from __future__ import annotations

import os
import re
import shlex
import signal
from pathlib import Path

import pytest

from tests.integration.checkout import eventually, fail, run, sql, succeed, tables
from tests.integration.test_dumps import shell
from tests.integration.test_interrupts import begin, ended

OURS = "SELECT datname FROM pg_database WHERE datname ~ '^stack[-_]' AND datname !~ '^stack-(snapshot|spare|undo)'"
WORKING = "SELECT pid FROM pg_stat_activity WHERE datname ~ '^stack[-_]' AND backend_type = 'client backend'"
SLOW = "CREATE TABLE slow AS SELECT generate_series(1, 100) AS n;\nSELECT pg_sleep(30);\nCREATE INDEX ON slow (n);\n"


@pytest.fixture
def filled(either: Path) -> Path:
    succeed(either, "up")
    sql(either, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    return either


@pytest.mark.parametrize("command", [("load", "slow.sql", "--clean", "--yes"), ("seed",)], ids=lambda words: words[0])
def test_a_killed_client_leaves_the_database_as_it_was_and_nothing_at_work(
    filled: Path, command: tuple[str, ...]
) -> None:
    (filled / "slow.sql").write_text(SLOW)
    (filled / "seed" / "slow.sql").write_text(SLOW)
    child = begin(filled, *command)
    with ended(child):
        eventually(
            lambda: sql(filled, "SELECT pid FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep'", dbname="postgres")
        )
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        eventually(lambda: not sql(filled, WORKING, dbname="postgres"), timeout=10)  # though nobody comes
        eventually(lambda: not sql(filled, OURS, dbname="postgres"), timeout=10)
    assert tables(filled) == ["kept"]
    (filled / "seed" / "slow.sql").write_text("CREATE TABLE quick ();")
    succeed(filled, "seed")
    assert tables(filled) == ["kept", "quick"]


def test_ctrl_c_leaves_the_database_as_it_was(filled: Path) -> None:
    (filled / "slow.sql").write_text(SLOW)
    child = begin(filled, "load", "slow.sql", "--clean", "--yes")
    with ended(child):
        eventually(lambda: sql(filled, WORKING, dbname="postgres"))
        os.killpg(child.pid, signal.SIGINT)
        _, said = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "Traceback" not in said
    eventually(lambda: not sql(filled, OURS, dbname="postgres"), timeout=10)
    assert tables(filled) == ["kept"]


def test_a_client_that_is_killed_is_told_as_what_it_was(filled: Path) -> None:
    (filled / "slow.sql").write_text(SLOW)
    child = begin(filled, "load", "slow.sql", "--clean", "--yes")
    with ended(child):
        (pid,) = eventually_one(filled)
        sql(filled, f"SELECT pg_terminate_backend({pid})", dbname="postgres")
        _, said = child.communicate(timeout=30)
    assert child.returncode == 1
    assert "slow.sql:2: FATAL:  terminating connection due to administrator command" in said
    assert tables(filled) == ["kept"]


def eventually_one(copy: Path) -> list[int]:
    query = "SELECT pid FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep'"
    eventually(lambda: sql(copy, query, dbname="postgres"))
    return [int(pid) for pid in sql(copy, query, dbname="postgres")]


def test_an_early_error_is_told_from_wherever_it_comes(filled: Path) -> None:
    early = "printf 'CREATE TABLE a (n int);\\nALTER TABLE nobody OWNER TO me;\\n'; yes 'SELECT 1;' | head -200000"
    for line, name in (
        (f"({early}) > e.sql; invoke load e.sql --clean --yes", "e.sql"),
        (f"({early}) | gzip > e.sql.gz; invoke load e.sql.gz --clean --yes", "e.sql.gz"),
        (f"({early}) | invoke load - --clean --yes", "what came through stdin"),
    ):
        done = shell(filled, line)
        assert done.returncode == 1
        assert f'{name}:2: ERROR:  relation "nobody" does not exist' in done.stderr
        assert "torn" not in done.stderr
    assert tables(filled) == ["kept"]


def test_undo_takes_back_each_of_them_and_itself(filled: Path) -> None:
    (filled / "new.sql").write_text("CREATE TABLE new ();")
    (filled / "seed" / "s.sql").write_text("CREATE TABLE seeded ();")
    fail(filled, 2, "undo", saying=("nothing to undo",))
    succeed(filled, "snapshot", "one")
    for command, after in (
        (("load", "new.sql", "--clean", "--yes"), ["new"]),
        (("seed",), ["kept", "seeded"]),
        (("restore", "one"), ["kept"]),
    ):
        if command[0] == "restore":
            sql(filled, "CREATE TABLE more ()")
        before = tables(filled)
        done = run(filled, *command)
        assert done.returncode == 0, done.stderr
        assert "`invoke undo` takes that back." in done.stderr
        assert tables(filled) == after
        assert f"before `invoke {command[0]}" in run(filled, "snapshots").stderr
        for expected in (before, after, before):
            succeed(filled, "undo")
            assert tables(filled) == expected
    succeed(filled, "drop-snapshot", "one", "--yes")
    succeed(filled, "undo")
    assert "one" in succeed(filled, "snapshots")


def test_what_it_says_to_type_lets_a_role_log_in(filled: Path) -> None:
    (filled / "x.sql").write_text("CREATE TABLE x ();\nALTER TABLE public.x OWNER TO sailor;\n")
    done = run(filled, "load", "x.sql", "--clean", "--yes")
    cure = re.search("`invoke (psql .*?)`", done.stderr)
    assert cure, done.stderr
    succeed(filled, *shlex.split(cure[1]))
    assert sql(filled, "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'sailor'") == [True]


def test_what_it_says_to_type_sets_a_variable(filled: Path) -> None:
    (filled / "x.sql").write_text(
        "SELECT ':a' AS \":b\";\nCREATE TABLE x ();\nCOMMENT ON TABLE x IS :'what it is';\nCREATE TABLE :\"name\" ();\n"
    )
    said = fail(filled, 1, "load", "x.sql", "--clean", "--yes", saying=("x.sql:3: ERROR:  syntax error at or near",))
    assert "variable" not in said, said  # that is none
    (filled / "x.sql").write_text('SELECT \':a\' AS ":b"; CREATE TABLE :"name" ();\n')
    said = fail(filled, 1, "load", "x.sql", "--clean", "--yes", saying=("x.sql:1: ERROR:  syntax error at or near",))
    cure = re.search("`(printf .*?)`", said)
    assert cure, said
    line = (
        cure[1].replace("VALUE", "named").replace("FILE", "x.sql").replace("invoke load", "invoke load --clean --yes")
    )
    done = shell(filled, line)
    assert (done.returncode, tables(filled)) == (0, ["named"]), done.stderr


def test_a_role_that_a_block_makes_goes_with_a_load_that_fails(filled: Path) -> None:
    make = "DO $$ BEGIN CREATE ROLE crew; END $$;\nCREATE TABLE x ();\nALTER TABLE x OWNER TO crew;\n"
    (filled / "x.sql").write_text(make + "SELECT 1/0;\n")
    fail(filled, 1, "load", "x.sql", "--clean", "--yes", saying=("x.sql:4: ERROR:  division by zero",))
    assert not sql(filled, "SELECT rolname FROM pg_roles WHERE rolname = 'crew'")
    (filled / "x.sql").write_text(make)
    succeed(filled, "load", "x.sql", "--clean", "--yes")
    assert sql(filled, "SELECT tableowner FROM pg_tables WHERE tablename = 'x'") == ["crew"]


def test_what_is_loaded_may_be_called_as_a_command(filled: Path) -> None:
    (filled / "seed" / "s.sql").write_text("CREATE TABLE seeded ();")
    fail(filled, 2, "load", "seed", "--clean", "--yes", saying=("seed",))
    fail(filled, 2, "load", "--clean", "reset", saying=("reset", "No such file"))
    assert tables(filled) == ["kept"]
    (filled / "status").write_text("CREATE TABLE called ();")
    succeed(filled, "load", "status", "--clean", "--yes")
    assert tables(filled) == ["called"]


def test_reset_data_names_what_undo_would_bring_back(filled: Path) -> None:
    (filled / "x.sql").write_text("CREATE TABLE x ();")
    succeed(filled, "load", "x.sql", "--clean", "--yes")
    said = run(filled, "reset-data", "--dry-run").stderr
    assert "what `invoke undo` would bring back: convex_poc as it was before `invoke load --clean x.sql`" in said
