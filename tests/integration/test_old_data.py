"""Data that was made with other settings, by another version, or never finished: told why, and never lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.checkout import ALONE, configure, containers, docker, fail, run, sql, succeed, tables, value
from tests.integration.conftest import Make


@pytest.fixture(scope="module")
def made_before(make_shared: Make) -> Path:
    """A copy with a table in its database."""
    copy = make_shared(**ALONE)
    succeed(copy, "up")
    sql(copy, "CREATE TABLE kept ()")
    return copy


@pytest.fixture
def filled(made_before: Path) -> Iterator[Path]:
    """The same with its stack up, as it was before each test."""
    if run(made_before, "status").returncode:
        succeed(made_before, "down")
        succeed(made_before, "up")
    settings = (made_before / ".env").read_text()
    yield made_before
    (made_before / ".env").write_text(settings)


@pytest.mark.parametrize(
    ("name", "saying"),
    [
        ("POSTGRES_PASSWORD", "initialised with another password"),
        ("POSTGRES_DB", "initialised with another user or database"),
        ("POSTGRES_USER", "initialised with another user or database"),
    ],
)
def test_a_setting_that_counts_only_for_new_data(filled: Path, name: str, saying: str) -> None:
    before = value(filled, name)
    configure(filled, **{name: "Changed-since"})
    said = fail(filled, 1, "up", saying=("postgres", saying, name, "`invoke doctor --fix`"), within=20)
    assert name != "POSTGRES_PASSWORD" or "Changed-since" not in said
    assert run(filled, "status").returncode == 1
    configure(filled, **{name: before})
    succeed(filled, "up")
    assert tables(filled) == ["kept"]


def test_the_password_is_changed_as_the_message_says(filled: Path) -> None:
    configure(filled, POSTGRES_PASSWORD="changed")
    fail(filled, 1, "up", saying=("`invoke doctor --fix`",), within=20)
    succeed(filled, "doctor", "--fix")
    succeed(filled, "up")
    assert tables(filled) == ["kept"]
    succeed(filled, "psql", "-c", "ALTER ROLE postgres PASSWORD 'postgres'")


def test_settings_that_changed_since_the_start_lead_nobody_to_the_former_database(filled: Path) -> None:
    (filled / "some.sql").write_text("SELECT 1")
    configure(filled, POSTGRES_DB="another")
    for command in (
        ("psql", "-c", "DROP TABLE kept"), ("load", "some.sql", "--clean", "--yes"), ("snapshot",), ("dump", "-"),
    ):  # fmt: skip
        fail(filled, 2, *command, saying=("settings have changed", "'convex_poc'", "'another'", "`invoke up`"))
    configure(filled, POSTGRES_DB="convex_poc")
    assert tables(filled) == ["kept"]


def in_server(copy: Path, *argv: str) -> None:
    docker("exec", "--user", "postgres", containers(copy)["postgres"], *argv)


@pytest.mark.alone
def test_a_first_start_that_was_cut_short(started: Path) -> None:
    # What the image adds last: without it nobody but the container itself is let in.
    in_server(started, "sed", "-i", "/^host all all all/d", "/var/lib/postgresql/data/pg_hba.conf")
    succeed(started, "down")
    fail(
        started,
        1,
        "up",
        saying=("first start was interrupted", "MB and no table", "`invoke reset-data --service pg`"),
        within=20,
    )
    succeed(started, "reset-data", "--yes")
    succeed(started, "up")


@pytest.mark.alone
def test_data_of_another_major_version(started: Path) -> None:
    in_server(started, "sh", "-c", "echo 16 >/var/lib/postgresql/data/PG_VERSION")
    succeed(started, "down")
    fail(started, 1, "up", saying=("made by PostgreSQL 16", "17"), within=20)
    assert (started / "data/pg").is_dir()


def test_data_that_is_no_directory(copy: Path) -> None:
    (copy / "data/pg").touch()
    fail(copy, 1, "up", saying=(f"{copy}/data/pg",))
