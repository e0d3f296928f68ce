"""Settings and files that cannot be used, and a Docker that cannot: refused before anything happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.checkout import configure, containers, fail

COMMANDS = [
    ("up",), ("down",), ("restart",), ("status",), ("logs",), ("wait-healthy",), ("psql", "-c", "SELECT 1"),
    ("seed",), ("reset", "--yes"), ("reset-data", "--yes"), ("admin-key",), ("dashboard",),
]  # fmt: skip


def test_a_layer_that_is_missing(copy: Path) -> None:
    fail(copy, 2, "up", "--layers", "dev,nosuch", saying=("docker-compose.nosuch.yml", "dev"))
    configure(copy, STACK_LAYERS="nosuch")
    for command in ("up", "down", "status", "env"):
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
