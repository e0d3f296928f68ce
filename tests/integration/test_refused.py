"""Settings and files that cannot be used, and a Docker that cannot: refused before anything happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.checkout import configure, containers, fail, succeed, value

COMMANDS = [
    ("up",), ("down",), ("restart",), ("status",), ("logs",), ("wait-healthy",), ("psql", "-c", "SELECT 1"),
    ("seed",), ("reset", "--yes"), ("reset-data", "--yes"), ("admin-key",), ("dashboard",),
]  # fmt: skip


def test_a_layer_that_is_missing(copy: Path) -> None:
    fail(copy, 2, "up", "--layers", "dev,nosuch", saying=("docker-compose.nosuch.yml", "dev"))
    configure(copy, STACK_LAYERS="nosuch")
    for command in ("up", "status", "env"):
        fail(copy, 2, command, saying=("docker-compose.nosuch.yml",))
    assert containers(copy) == {}


def test_a_compose_file_that_is_broken(copy: Path) -> None:
    (copy / "docker-compose.broken.yml").write_text("services: {postgres: {imagine: x}}")
    fail(copy, 1, "up", "--layers", "dev,broken", saying=("imagine",))


def test_an_image_that_is_neither_here_nor_to_be_had(copy: Path) -> None:
    configure(copy, POSTGRES_IMAGE="localhost:1/no/such:image")
    said = fail(copy, 1, "up", saying=("localhost:1/no/such:image", "could not be pulled", "POSTGRES_IMAGE"))
    assert "convex-backend Pulling" not in said  # an image that is here needs no registry
    assert "postgres" not in containers(copy)


def test_a_line_of_env_that_means_two_things(copy: Path) -> None:
    configure(copy, POSTGRES_PASSWORD="pa$word-secret")
    number = (copy / ".env").read_text().splitlines().index("POSTGRES_PASSWORD=pa$word-secret") + 1
    for command in ("up", "down", "status", "psql", "reset-data", "env"):
        said = fail(copy, 2, command, saying=(f"{copy}/.env, line {number}", "POSTGRES_PASSWORD='…'"))
        assert "secret" not in said
    assert containers(copy) == {}


@pytest.mark.parametrize("name", ["a$b", "a'b", 'a"b', "a\\b", "pg_a"])
def test_a_user_whom_initdb_refuses(copy: Path, name: str) -> None:
    fail(copy, 2, "up", env={"POSTGRES_USER": name}, saying=("POSTGRES_USER",))


@pytest.fixture
def with_data(copy: Path) -> Path:
    """A copy with something to lose."""
    (copy / "data/pg").mkdir()
    (copy / "data/pg/canary").touch()
    (copy / "seed/010.sql").write_text("SELECT 1")
    return copy


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_docker_is_not_installed(with_data: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    nowhere = {"PATH": str(tmp_path)}
    fail(with_data, 1, *command, env=nowhere, saying=("`docker` was not found on PATH", "Install it"))
    assert (with_data / "data/pg/canary").exists()


@pytest.mark.parametrize("address", ["tcp://docker.invalid:2375", "ssh://me@docker.invalid"])
def test_docker_on_another_machine_gets_no_data_and_ours_is_not_wiped(with_data: Path, address: str) -> None:
    for command in (("up",), ("reset-data", "--yes"), ("reset", "--yes")):
        saying = (address, "not on this machine", "docker context use default")
        fail(with_data, 2, *command, saying=saying, env={"DOCKER_HOST": address}, within=10)
    assert (with_data / "data/pg/canary").exists()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_docker_does_not_answer(with_data: Path, command: tuple[str, ...]) -> None:
    said = fail(with_data, 1, *command, env={"DOCKER_HOST": "unix:///nonexistent"}, saying=("Docker does not answer",))
    assert "pull" not in said
    assert (with_data / "data/pg/canary").exists()


@pytest.mark.alone
def test_a_layer_whose_file_is_gone_does_not_keep_the_stack_from_stopping(copy: Path) -> None:
    (copy / "docker-compose.mine.yml").write_text("services: {postgres: {labels: {mine: yes}}}\n")
    succeed(copy, "up", "--layers", "dev,alone,mine")
    (copy / "docker-compose.mine.yml").unlink()  # as another branch of git does
    configure(copy, STACK_LAYERS="dev,alone,mine")
    fail(copy, 2, "up", saying=("docker-compose.mine.yml does not exist",))
    succeed(copy, "down")
    assert not containers(copy)


@pytest.mark.alone
def test_a_port_that_nothing_uses_refuses_nothing_and_one_that_two_use_is_named(copy: Path) -> None:
    port = value(copy, "POSTGRES_PORT")
    configure(copy, CONVEX_PORT=port)
    succeed(copy, "up")  # without Convex
    succeed(copy, "down")
    configure(copy, STACK_LAYERS="dev")
    fail(copy, 2, "up", saying=(f"POSTGRES_PORT and CONVEX_PORT are the same port, {port}", "Nothing was started"))
    configure(copy, STACK_LAYERS="dev,alone")
    succeed(copy, "up")


MOVED = """
services:
  postgres:
    volumes: !override [./data/other:/var/lib/postgresql/data]
"""


@pytest.mark.alone
def test_the_version_is_looked_up_where_a_layer_has_put_the_cluster(copy: Path) -> None:
    (copy / "docker-compose.moved.yml").write_text(MOVED)
    configure(copy, STACK_LAYERS="dev,alone,moved")
    for leaf in ("pg", "other"):
        (copy / "data" / leaf).mkdir()
    (copy / "data" / "other" / "PG_VERSION").write_text("16\n")
    fail(copy, 1, "up", saying=(f"{copy / 'data' / 'other'} cannot be used", "made by PostgreSQL 16"))
    (copy / "data" / "other" / "PG_VERSION").unlink()
    (copy / "data" / "pg" / "PG_VERSION").write_text("16\n")  # which nothing uses
    succeed(copy, "up")
