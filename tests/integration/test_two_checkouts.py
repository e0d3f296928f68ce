"""Two checkouts of the repository on one machine: never each other's containers, data or ports."""

from __future__ import annotations

from pathlib import Path

import pytest

from stack.ground.catalog import PORTS
from tests.integration.checkout import (
    ALONE,
    IMAGES,
    configure,
    containers,
    fail,
    holders,
    networks,
    project,
    run,
    sql,
    succeed,
    tables,
    unique,
    value,
)
from tests.integration.conftest import Make


@pytest.fixture
def second(make: Make, shared: Path) -> Path:
    """A checkout that was given the settings of the one whose stack is up."""
    same = {name: value(shared, name) for name in ("COMPOSE_PROJECT_NAME", *PORTS)}
    return make(**same)


CHANGING = [("up",), ("down",), ("restart",), ("seed",), ("reset", "--yes"), ("reset-data", "--yes")]
ASKING = [("status",), ("psql", "-c", "CREATE TABLE stray ()"), ("wait-healthy",), ("admin-key",)]


def test_another_checkouts_project_name_is_refused(second: Path, shared: Path) -> None:
    before = containers(shared)
    for folder in ("data/pg", "data/convex"):
        (second / folder).mkdir()
    (second / "seed" / "010.sql").write_text("CREATE TABLE stray ()")
    for command in (*CHANGING, *ASKING):
        fail(second, 2, *command, saying=(str(shared), "`invoke init --isolated`"))
    assert containers(shared) == before
    assert run(shared, "status").returncode == 0
    assert tables(shared) == []
    assert (second / "data/pg").is_dir()


def test_isolated_checkouts_live_side_by_side(second: Path, shared: Path) -> None:
    before = {name: value(second, name) for name in IMAGES}
    succeed(second, "init", "--isolated")
    assert {name: value(second, name) for name in IMAGES} == before
    names = ("COMPOSE_PROJECT_NAME", *PORTS)
    assert not {value(second, name) for name in names} & {value(shared, name) for name in names}
    succeed(second, "up")
    sql(second, "CREATE TABLE of_the_second ()")
    assert tables(second) == ["of_the_second"]
    assert tables(shared) == []
    assert "of_the_second" in succeed(second, "psql", "-c", "\\d")
    assert "of_the_second" not in succeed(shared, "psql", "-c", "\\d")
    assert not set(containers(second).values()) & set(containers(shared).values())
    assert networks(second) == [f"{project(second)}_default"]
    succeed(second, "reset-data", "--yes")
    assert run(shared, "status").returncode == 0


@pytest.mark.alone
def test_a_name_is_free_again_when_the_other_checkout_is_down(make: Make, started: Path) -> None:
    other = make(**{name: value(started, name) for name in ("COMPOSE_PROJECT_NAME", *PORTS)}, **ALONE)
    fail(other, 2, "status", saying=(str(started),))
    succeed(started, "down")
    assert run(other, "status").returncode == 3
    succeed(other, "up", "--no-wait")
    fail(started, 2, "status", saying=(str(other),))


def test_a_checkout_that_was_moved_is_still_itself(make: Make, tmp_path: Path) -> None:
    copy = make("old")
    succeed(copy, "up")
    sql(copy, "CREATE TABLE kept ()")
    moved = copy.rename(tmp_path / "new")
    try:
        succeed(moved, "up")
        assert tables(moved) == ["kept"]
        assert len(containers(moved)) == 3
    finally:
        succeed(moved, "down")
        moved.rename(copy)


@pytest.mark.alone
def test_a_new_name_never_brings_a_second_server_to_the_same_data(started: Path) -> None:
    sql(started, "CREATE TABLE kept ()")
    former = project(started)
    configure(started, COMPOSE_PROJECT_NAME=unique())  # with the stack of the former name still up
    result = run(started, "up")
    now = holders(started / "data/pg")
    assert len(now) == 1, f"two servers write to one directory: {now}"
    assert result.returncode == 0 or former in result.stderr


def test_init_writes_a_file_and_keeps_one_that_is_there(copy: Path) -> None:
    text = (copy / ".env").read_text()
    succeed(copy, "init")
    assert (copy / ".env").read_text() == text
    (copy / ".env").unlink()
    succeed(copy, "init")
    assert (copy / ".env").read_text() == (copy / ".env.example").read_text()
    configure(copy, **dict(line.split("=", 1) for line in text.splitlines()))


def test_isolated_checkouts_that_are_down_choose_different_ports(make: Make) -> None:
    copies = [make(), make()]
    for each in copies:
        succeed(each, "init", "--isolated")
    assert not {value(copies[0], name) for name in PORTS} & {value(copies[1], name) for name in PORTS}
