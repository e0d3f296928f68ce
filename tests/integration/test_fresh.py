"""`invoke fresh`: the database as seed/ makes it, made once and then brought back, on both engines."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from tests.integration.checkout import INVOKE, eventually, fail, run, sql, succeed, tables
from tests.integration.conftest import Make

ROWS = "CREATE TABLE rows (n int);\nINSERT INTO rows SELECT generate_series(1, 1000);\n"
BACK = "`invoke undo` takes that back."


def write(copy: Path, name: str, text: str) -> None:
    file = copy / "seed" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)


@pytest.fixture
def seeded(either: Path) -> Path:
    """A stack that is up, with a seed of two files, one of which reads a third."""
    for file in (either / "seed").glob("*.sql"):
        file.unlink()
    write(either, "010_rows.sql", ROWS)
    write(either, "020_more.sql", "CREATE TABLE more (n int);\n\\copy more FROM 'parts/more.csv'\n")
    write(either, "parts/more.csv", "1\n2\n")
    succeed(either, "up")
    return either


def fresh(copy: Path, *options: str) -> bool:
    """Type it, and return whether the seed was applied."""
    told = run(copy, "fresh", *options)
    assert told.returncode == 0, told.stderr
    applied = "seed/010_rows.sql\nseed/020_more.sql\n" in told.stderr
    assert applied or "is as it was when the snapshot fresh-" in told.stderr
    return applied


def kept(copy: Path) -> list[str]:
    names = sql(copy, "SELECT shobj_description(oid, 'pg_database')::json ->> 'name' FROM pg_database WHERE datname ~"
                      " '^stack-snapshot-'")  # fmt: skip
    return sorted(name for name in names if name.startswith("fresh-"))


def test_an_empty_folder_empties_nothing(either: Path) -> None:
    for file in (either / "seed").glob("*.sql"):
        file.unlink()
    succeed(either, "up")
    sql(either, "CREATE TABLE mine AS SELECT 7 AS n")
    fail(either, 2, "fresh", saying=("nothing in seed/", "seed/010_schema.sql"))
    assert tables(either) == ["mine"]
    write(either, "010_schema.sql", ROWS)
    succeed(either, "fresh")
    assert tables(either) == ["rows"]


def test_it_replaces_what_is_there_and_is_brought_back_until_a_file_changes(seeded: Path) -> None:
    sql(seeded, "CREATE TABLE mine AS SELECT 7 AS n")
    told = run(seeded, "fresh")
    assert told.returncode == 0
    assert f"convex_poc has what 2 files of seed/ make, and nothing else. {BACK}" in told.stderr
    assert tables(seeded) == ["more", "rows"]
    succeed(seeded, "undo")
    assert sql(seeded, "SELECT n FROM mine") == [7]
    sql(seeded, "CREATE TABLE mine_too ()")
    assert not fresh(seeded)
    assert tables(seeded) == ["more", "rows"]
    assert sql(seeded, "SELECT count(*) FROM rows") == [1000]
    assert "before `invoke fresh`" in run(seeded, "undo").stderr
    assert tables(seeded) == ["mine", "mine_too"]
    first = kept(seeded)
    write(seeded, "parts/more.csv", "1\n2\n3\n")
    assert fresh(seeded)
    assert sql(seeded, "SELECT count(*) FROM more") == [3]
    assert not set(kept(seeded)) & set(first)  # each of the files may read what has changed
    (seeded / "seed" / "010_rows.sql").rename(seeded / "seed" / "015_rows.sql")
    assert "seed/015_rows.sql" in run(seeded, "fresh").stderr
    assert len(kept(seeded)) == 2  # of all files, and of all but the last
    (seeded / "seed" / "015_rows.sql").rename(seeded / "seed" / "010_rows.sql")
    assert fresh(seeded)
    assert not fresh(seeded)
    assert fresh(seeded, "--no-cache")


def test_a_seed_that_fails_touches_nothing(seeded: Path) -> None:
    sql(seeded, "CREATE TABLE mine ()")
    write(seeded, "030_wrong.sql", "CREATE TABLE later ();\nSELECT 1/0;\n")
    fail(seeded, 1, "fresh", saying=("seed/030_wrong.sql:2:", "division by zero", "the database is as it was"))
    assert tables(seeded) == ["mine"]
    assert len(kept(seeded)) == 1  # of the files before it
    write(seeded, "030_wrong.sql", "CREATE TABLE later ();\n")  # the cure
    succeed(seeded, "fresh")
    assert tables(seeded) == ["later", "more", "rows"]


def test_what_reads_outside_of_the_folder_is_not_kept(seeded: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.sql"
    outside.write_text("CREATE TABLE outside ();\n")
    write(seeded, "030.sql", f"\\i {outside}\n")
    told = run(seeded, "fresh")
    assert f"It is not kept for the next time: files of seed/ read {outside}, outside of seed/." in told.stderr
    assert tables(seeded) == ["more", "outside", "rows"]
    assert len(kept(seeded)) == 1  # of the files before it
    outside.write_text("CREATE TABLE another ();\n")
    succeed(seeded, "fresh")
    assert tables(seeded) == ["another", "more", "rows"]


def test_a_snapshot_of_the_users_own_stays_whatever_it_is_called(seeded: Path) -> None:
    sql(seeded, "CREATE TABLE mine ()")
    succeed(seeded, "snapshot", "fresh-000000000000")
    succeed(seeded, "fresh")
    write(seeded, "parts/more.csv", "")
    succeed(seeded, "fresh")
    assert len(kept(seeded)) == 3
    succeed(seeded, "restore", "fresh-000000000000")
    assert tables(seeded) == ["mine"]


def test_settings_that_a_seed_gives_the_database_come_back_with_it(seeded: Path) -> None:
    write(seeded, "030.sql", "ALTER DATABASE convex_poc SET search_path = 'elsewhere';\n")
    succeed(seeded, "fresh")
    assert not [line for line in run(seeded, "fresh").stderr.splitlines() if line.startswith("seed/")]
    assert sql(seeded, "SHOW search_path") == ["elsewhere"]


def test_killed_at_any_moment_it_leaves_the_old_or_the_new(seeded: Path) -> None:
    chance = random.Random(5)  # noqa: S311
    took = 2.0
    for turn in range(8):
        sql(seeded, f"DROP TABLE IF EXISTS mine; CREATE TABLE mine AS SELECT {turn} AS n")
        command = subprocess.Popen(
            [*INVOKE, "fresh", *["--no-cache"] * (turn % 2)], cwd=seeded, stderr=subprocess.DEVNULL
        )
        begun = time.monotonic()
        with suppress(subprocess.TimeoutExpired):
            command.wait(chance.uniform(0.1, took))
            took = max(0.5, time.monotonic() - begun)
        command.send_signal(chance.choice((signal.SIGKILL, signal.SIGINT)))
        command.wait(30)
        try:
            there = tables(seeded)
        except psycopg.OperationalError:  # at the very moment of the exchange; once more, and it is in
            there = tables(seeded)
        assert there in (["more", "rows"], ["mine"], ["mine", "more", "rows"])
        if "rows" in there:
            assert sql(seeded, "SELECT count(*) FROM rows") == [1000]
    succeed(seeded, "fresh")
    assert tables(seeded) == ["more", "rows"]
    left = "SELECT count(*) FROM pg_database WHERE datname ~ '^stack.(making|doomed)'"
    eventually(lambda: sql(seeded, left) == [0])


def test_the_external_engine_says_that_it_cannot(make: Make) -> None:
    copy = make(STACK_ENGINE="external", DATABASE_URL="postgresql://postgres:x@127.0.0.1:9/x")
    assert "is run elsewhere (STACK_ENGINE=external)" in fail(copy, 2, "fresh")
