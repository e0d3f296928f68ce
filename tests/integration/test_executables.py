"""Programs in seed/, run in their turn on the database that is being made, on both engines."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.integration.checkout import configure, eventually, fail, run, sql, succeed, tables
from tests.integration.test_dumps import shell
from tests.integration.test_interrupts import begin, ended

PROGRAM = f"""#!{sys.executable}
{{second}}
import os, pathlib, psycopg
with psycopg.connect(os.environ["DATABASE_URL"]) as session:
    print("at work in", pathlib.Path.cwd())
    session.execute("INSERT INTO rows VALUES (2)")
    {{last}}
"""
WORKING = "SELECT pid FROM pg_stat_activity WHERE datname ~ '^stack_making_' AND query ~ '^SELECT pg_sleep'"


@pytest.fixture
def seeded(either: Path) -> Path:
    """A stack that is up, with a program between two files of SQL."""
    for file in (either / "seed").glob("*.sql"):
        file.unlink()
    write(either, "010_rows.sql", "CREATE TABLE rows AS SELECT 1 AS n;")
    write(either, "020_program.py", PROGRAM.format(second="", last=""))
    write(either, "030_view.sql", "CREATE VIEW total AS SELECT sum(n) FROM rows;\nINSERT INTO rows VALUES (4);")
    succeed(either, "up")
    return either


def write(copy: Path, name: str, text: str) -> None:
    file = copy / "seed" / name
    file.write_text(text)
    if name.endswith(".py"):
        file.chmod(0o755)


def rows(copy: Path) -> list[int]:
    return sorted(sql(copy, "SELECT n FROM rows"))


def test_a_program_runs_in_its_turn_on_what_is_being_made(seeded: Path) -> None:
    done = run(seeded, "seed")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    order = ["seed/010_rows.sql", "seed/020_program.py", f"at work in {seeded}", "seed/030_view.sql", "Applied 3 files"]
    places = [done.stderr.index(words) for words in order]
    assert places == sorted(places)
    assert (rows(seeded), sql(seeded, "SELECT sum FROM total")) == ([1, 2, 4], [7])
    succeed(seeded, "undo")
    assert tables(seeded) == []


def test_one_that_fails_leaves_the_database_as_it_was(seeded: Path) -> None:
    sql(seeded, "CREATE TABLE mine AS SELECT 7 AS n")
    write(seeded, "020_program.py", PROGRAM.format(second="", last="raise SystemExit(7)"))
    for command in ("seed", "fresh"):
        fail(
            seeded, 1, command, saying=("seed/020_program.py failed", "as it was", "exit code 7", f"`invoke {command}`")
        )
        assert tables(seeded) == ["mine"]
    write(seeded, "020_program.py", PROGRAM.format(second="", last="raise SystemExit('its own words')"))
    fail(seeded, 1, "seed", saying=("its own words", "exit code 1"))
    write(seeded, "020_program.py", PROGRAM.format(second="", last="os.kill(os.getpid(), 9)"))
    fail(seeded, 1, "seed", saying=("Killed",))
    assert tables(seeded) == ["mine"]
    for runner in ("/nowhere/there", "/bin/sh\r"):
        write(seeded, "020_program.py", f"#! {runner}\n")
        fail(seeded, 1, "seed", saying=("020_program.py failed", f"{runner!r} runs it, which is not there"))
    write(seeded, "020_program.py", PROGRAM.format(second="", last=""))
    succeed(seeded, "seed")
    assert tables(seeded) == ["mine", "rows"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_what_ends_the_command_leaves_nothing(seeded: Path, number: int) -> None:
    sql(seeded, "CREATE TABLE mine AS SELECT 7 AS n")
    write(seeded, "020_program.py", PROGRAM.format(second="", last="session.execute('SELECT pg_sleep(60)')"))
    command = begin(seeded, "fresh")
    with ended(command):
        eventually(lambda: sql(seeded, WORKING, dbname="postgres"))
        if number == signal.SIGINT:  # a terminal sends it to all that runs in it
            os.killpg(command.pid, number)
            command.communicate(timeout=60)
            assert command.returncode == 130
    write(seeded, "020_program.py", PROGRAM.format(second="", last=""))
    assert tables(seeded) == ["mine"]
    succeed(seeded, "fresh")
    assert rows(seeded) == [1, 2, 4]
    assert not sql(seeded, WORKING, dbname="postgres")


def test_what_is_made_is_kept_when_it_says_what_it_reads(seeded: Path) -> None:
    told = succeed_with_words(seeded, "fresh")
    assert "not kept for the next time" in told
    assert "seed/020_program.py" in told
    assert "at work in" in succeed_with_words(seeded, "fresh")
    (seeded / "migrations").mkdir()
    write(seeded, "020_program.py", PROGRAM.format(second="# reads: migrations seed", last=""))
    assert "not kept" not in succeed_with_words(seeded, "fresh")
    assert "at work in" not in succeed_with_words(seeded, "fresh")
    (seeded / "migrations" / "one").write_text("")
    assert "at work in" in succeed_with_words(seeded, "fresh")
    assert "at work in" not in succeed_with_words(seeded, "fresh")
    (seeded / "seed" / "020_program.py").chmod(0o644)
    assert "at work in" not in succeed_with_words(seeded, "fresh")
    assert rows(seeded) == [1, 4]


def succeed_with_words(copy: Path, *args: str) -> str:
    done = run(copy, *args)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_what_may_not_be_run_is_passed_over_and_the_cure_is_told(seeded: Path) -> None:
    (seeded / "seed" / "020_program.py").chmod(0o644)
    write(seeded, "a note.txt", "none")
    (seeded / "seed" / "a note.txt").chmod(0o755)  # as all files are on some file systems
    told = succeed_with_words(seeded, "fresh")
    assert re.search(r"Passed over in seed/.*: 020_program\.py, a note\.txt\.", told)
    assert rows(seeded) == [1, 4]
    cures = re.findall("`(chmod .*?)`", told)
    assert cures == ["chmod +x seed/020_program.py"]
    assert shell(seeded, cures[0]).returncode == 0
    succeed(seeded, "fresh")
    assert rows(seeded) == [1, 2, 4]


def test_on_a_server_elsewhere_it_is_refused_and_the_cure_runs_it(seeded: Path) -> None:
    succeed(seeded, "psql", "-c", "CREATE TABLE rows (n integer)")
    configure(
        seeded,
        STACK_ENGINE="external",
        DATABASE_URL=json.loads(succeed(seeded, "env", "--format", "json"))["DATABASE_URL"],
    )
    said = fail(seeded, 2, "seed", saying=("seed/020_program.py", "cannot be taken back"))
    assert rows(seeded) == []
    cure = re.search("Run it yourself, `(.*?)`", said)
    assert cure, said
    assert shell(seeded, cure[1]).returncode == 0
    assert rows(seeded) == [2]


def test_reset_runs_them_too(seeded: Path) -> None:
    succeed(seeded, "reset", "--yes")
    assert rows(seeded) == [1, 2, 4]
