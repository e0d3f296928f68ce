"""seed/*.sql: in order, each all or nothing; and a realistic database that must survive what happens to a stack."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.checkout import (
    ALONE,
    SHOP,
    containers,
    docker,
    fail,
    sql,
    succeed,
    tables,
)
from tests.integration.conftest import Make


@pytest.fixture
def seeded(shared: Path) -> Iterator[Path]:
    """The shared stack, from whose seed folder and database all is taken away again."""
    yield shared
    for table in tables(shared):
        sql(shared, f"DROP TABLE {table}")
    shutil.rmtree(shared / "seed")
    (shared / "seed").mkdir()


def write(copy: Path, **files: str) -> None:
    for name, text in files.items():
        (copy / "seed" / f"{name}.sql").write_text(text, encoding="utf-8")


def test_files_are_applied_in_name_order(seeded: Path) -> None:
    write(seeded, **{"9_last": "INSERT INTO t VALUES ('9')", "010_first": "CREATE TABLE t (name text)"})
    write(seeded, **{"020 größe": "INSERT INTO t VALUES ('größe');\nINSERT INTO t VALUES ('second line')"})
    (seeded / "seed" / "000.sql.txt").write_text("SELECT 1/0")
    assert succeed(seeded, "seed") == ""
    assert sql(seeded, "SELECT name FROM t") == ["größe", "second line", "9"]


def test_a_file_that_fails_leaves_nothing_of_any(seeded: Path) -> None:
    write(seeded, a="CREATE TABLE a ()", b="CREATE TABLE b ();\nSELECT 1/0;", c="CREATE TABLE c ()")
    fail(seeded, 1, "seed", saying=("seed/b.sql:2: ERROR:  division by zero", "`invoke seed`"))
    assert tables(seeded) == []


def test_what_cannot_be_read_is_told(seeded: Path) -> None:
    (seeded / "seed" / "a folder.sql").mkdir()
    fail(seeded, 2, "seed", saying=("seed/a folder.sql",))


def test_an_empty_folder_is_fine(seeded: Path) -> None:
    assert succeed(seeded, "seed") == ""
    assert tables(seeded) == []


def checksum(copy: Path, database: str = "convex_poc") -> str:
    text = (SHOP / "checksum.sql").read_text(encoding="utf-8")
    return succeed(copy, "psql", "-f", "-", stdin=f"\\set QUIET on\n\\c {database}\n\\pset format unaligned\n{text}")


@pytest.fixture(scope="module")
def shop(make_shared: Make) -> Path:
    """A stack with 200,000 rows from seed/, to which each test must leave them."""
    made = make_shared(**ALONE)
    for file in ("010_schema.sql", "020_rows.sql"):
        shutil.copy(SHOP / file, made / "seed")
    succeed(made, "up")
    succeed(made, "seed")
    return made


@pytest.fixture(scope="module")
def rows(shop: Path) -> str:
    """The checksum of every table of the shop."""
    found = checksum(shop)
    assert len([line for line in found.splitlines() if "|" in line]) == 25  # 24 tables and a heading
    return found


def test_a_schema_comes_in_alike_through_seed_and_through_psql(shop: Path, rows: str) -> None:
    succeed(shop, "psql", "-c", "CREATE DATABASE other")
    for file in ("010_schema.sql", "020_rows.sql"):
        succeed(shop, "psql", stdin="\\c other\n" + (SHOP / file).read_text(encoding="utf-8"))
    assert checksum(shop, "other") == rows
    succeed(shop, "psql", "-c", "DROP DATABASE other")


def test_the_rows_survive_down_and_up(shop: Path, rows: str) -> None:
    succeed(shop, "down")
    succeed(shop, "up")
    assert checksum(shop) == rows


def test_the_rows_survive_a_killed_server(shop: Path, rows: str) -> None:
    docker("kill", "--signal", "KILL", containers(shop)["postgres"])
    succeed(shop, "up")
    assert checksum(shop) == rows


@pytest.mark.alone
def test_a_dump_brings_the_rows_to_another_checkout(shop: Path, rows: str, started: Path, tmp_path: Path) -> None:
    succeed(shop, "dump", str(tmp_path / "shop.dump"))
    succeed(started, "load", str(tmp_path / "shop.dump"))
    assert checksum(started) == rows


def test_reset_starts_over(shop: Path, rows: str) -> None:
    sql(shop, "CREATE TABLE rubbish ()")
    assert succeed(shop, "reset", "--yes") == ""
    assert "rubbish" not in tables(shop)
    assert checksum(shop) == rows
