"""What invoke and psql themselves take, on both engines: --dry, and psql's own options after `--`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import checkout
from tests.integration.checkout import INVOKE, environment, fail, run, sql, succeed, tables
from tests.integration.conftest import copy_for


@pytest.fixture(scope="module", params=["docker", "embedded"])
def stack(request: pytest.FixtureRequest, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A running PostgreSQL on each engine in turn, with files of SQL beside it."""
    with copy_for(request.param, template, tmp_path_factory.mktemp("own") / checkout.unique()) as made:
        succeed(made, "up")
        (made / "one.sql").write_text("SELECT 'one', :'x';\n\\q\nSELECT 1 / 0;\n")
        (made / "with space.sql").write_text("SELECT 'two';\n")
        (made / "bad.sql").write_text("SELECT 3;\nSELECT 1 / 0;\nSELECT 4;\n")
        yield made
        run(made, "down")


def state(copy: Path) -> object:
    """All that a command could change: tables and rows, databases, processes, settings and files."""
    ignored = ("__pycache__", "data/embedded", "data/pg", "data/.lock")
    files = {path for path in copy.rglob("*") if not str(path.relative_to(copy)).startswith(ignored)}
    started = sql(copy, "SELECT pg_postmaster_start_time()::text")
    databases = sql(copy, "SELECT datname FROM pg_database WHERE datname !~ '^stack-spare' ORDER BY 1")
    return started, databases, tables(copy), sql(copy, "SELECT count(*) FROM ledger"), files


def test_no_command_changes_anything_under_dry(stack: Path) -> None:
    """`invoke --dry restore` lost the rows."""
    sql(stack, "CREATE TABLE IF NOT EXISTS ledger (id int)")
    (stack / "seed" / "010.sql").write_text("CREATE TABLE from_seed ();")
    succeed(stack, "snapshot", "before", "--replace")
    sql(stack, "INSERT INTO ledger SELECT generate_series(1, 1000)")
    words = {"psql": ["-c", "DROP TABLE ledger"], "load": ["one.sql", "--clean", "--yes"], "dump": ["x.dump"],
             "reset": ["--yes"], "reset-data": ["--yes"], "drop-snapshot": ["before", "--yes"]}  # fmt: skip
    before = state(stack)
    listed = json.loads(succeed(stack, "--list", "--list-format", "json"))["tasks"]
    for command in (each["name"] for each in listed):
        for line in (["--dry", command, *words.get(command, [])], [command, *words.get(command, []), "-R"]):
            result = run(stack, *line)
            # admin-key without Convex is refused as always.
            assert result.returncode in (0, 2) or command in ("doctor", "admin-key"), (line, result.stderr)
            assert state(stack) == before, line
    for line in (["--dry", "reset-data"], ["-R", "reset"], ["reset", "--dry-run"]):
        shown = run(stack, *line)
        assert shown.returncode == 0
        assert "Nothing was deleted." in shown.stderr
        assert str(stack / "data") in shown.stderr
    succeed(stack, "restore")  # the cure: without it
    assert sql(stack, "SELECT count(*) FROM ledger") == [0]


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["-At", "-c", "select 42"], "42\n"),
        (["-Atc", "select 42"], "42\n"),
        (["--csv", "-c", "select 1 as a, 2 as b"], "a,b\n1,2\n"),
        (["-At", "-f", "one.sql", "-v", "x=1"], "one|1\n"),
        (["-At", "-f", "with space.sql"], "two\n"),
        (["-Atv", "x=2", "-f", "one.sql", "-c", "select 'between'", "-f", "with space.sql"], "one|2\nbetween\ntwo\n"),
        (["-Atv", "x=2", "-f", "one.sql", "--file=with space.sql", "-f", "/dev/null"], "one|2\ntwo\n"),
        (["-At", "-d", "postgres", "-c", "select current_database()"], "postgres\n"),
        (["-At", "postgres", "-c", "select current_database()"], "postgres\n"),
        (["-At", "-U", "postgres", "-c", "select current_user"], "postgres\n"),
        (["-At", "-P", "null=nothing", "-c", "select null"], "nothing\n"),
    ],
)
def test_words_after_two_dashes_are_psqls_own(stack: Path, words: list[str], printed: str) -> None:
    assert succeed(stack, "psql", "--", *words) == printed


def test_psql_lists_databases_and_reads_stdin_and_pipes_as_it_does_by_itself(stack: Path) -> None:
    assert "convex_poc|" in succeed(stack, "psql", "--", "-l", "-At")
    assert succeed(stack, "psql", "--", "-At", stdin="SELECT 5") == "5\n"
    assert succeed(stack, "psql", "--", "-At", "-f", "-", "-f", "with space.sql", stdin="SELECT 5;") == "5\ntwo\n"
    assert succeed(stack, "psql", "-c", "select 1", "--", "-At", "-c", "select 2") == "1\n2\n"
    invoke = " ".join(INVOKE)
    for line in (f"{invoke} psql -f <(echo 'select 11')", f"echo 'select 11' | {invoke} psql -f /dev/stdin",
                 f"{invoke} psql -- -f <(echo 'select 11') -f <(echo 'select 12')"):  # fmt: skip
        shown = subprocess.run(["bash", "-c", line], check=True, cwd=stack, capture_output=True, env=environment())
        assert b"11" in shown.stdout
        assert (b"12" in shown.stdout) == ("select 12" in line)


def test_the_exit_code_is_psqls_own(stack: Path) -> None:
    failed = run(stack, "psql", "--", "-At", "-f", "with space.sql", "-f", "bad.sql", "-f", "with space.sql")
    assert (failed.returncode, failed.stdout) == (3, "two\n3\n")
    assert "bad.sql:2: ERROR:  division by zero" in failed.stderr
    assert failed.stderr.count("\n") == 1
    assert run(stack, "psql", "--", "-v", "ON_ERROR_STOP=0", "-f", "bad.sql").returncode == 0
    assert run(stack, "psql", "--", "-c", "wrong").returncode == 1
    assert run(stack, "psql", "--", "--no-such-option").returncode == 1
    assert run(stack, "psql", "--", "-d", "nowhere", "-c", "select 1").returncode == 2
    fail(stack, 2, "psql", "--", "-h", "elsewhere", saying=("another server",))
    fail(stack, 2, "psql", "--", "-f", "nothing.sql", "-f", "with space.sql", saying=("nothing.sql cannot be read",))
    fail(stack, 2, "psql", "--", "-f", "seed", "-f", "with space.sql", saying=("seed cannot be read",))


def test_what_psql_writes_to_a_file_stands_beside_the_user(stack: Path) -> None:
    assert not succeed(stack, "psql", "--", "-At", "-o", "out.txt", "-c", "select 6")
    assert (stack / "out.txt").read_text() == "6\n"
    log = run(stack, "psql", "--", "-L", "log.txt", "-c", "select 6")
    assert (stack / "log.txt").exists() or (log.returncode == 2 and "> FILE" in log.stderr)


def test_nothing_of_several_files_is_left_behind(stack: Path) -> None:
    before = succeed(stack, "psql", "-c", "\\! ls /tmp | grep invoke- || true")
    run(stack, "psql", "--", *["-f", "with space.sql"] * 3)
    run(stack, "psql", "--", "-f", "bad.sql", *["-f", "with space.sql"] * 3)
    assert succeed(stack, "psql", "-c", "\\! ls /tmp | grep invoke- || true") == before
