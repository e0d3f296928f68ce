"""A project name that was changed while the stack ran: its containers are still this checkout's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.checkout import (
    configure,
    containers,
    docker,
    fail,
    foreign,
    project,
    run,
    sql,
    succeed,
    tables,
    unique,
    value,
)


def rename(copy: Path) -> str:
    """Give a copy another project name; return the former one."""
    former = project(copy)
    configure(copy, COMPOSE_PROJECT_NAME=unique())
    return former


def left(name: str) -> list[str]:
    listed = docker("ps", "-a", "--filter", f"label=com.docker.compose.project={name}", "--format", "{{.Names}}")
    return listed.split()


def test_every_command_says_what_runs_under_the_former_name_and_down_stops_it(started: Path) -> None:
    sql(started, "CREATE TABLE kept ()")
    former = rename(started)
    result = run(started, "status")
    assert result.returncode == 3
    assert f"{former}-postgres" in result.stderr
    assert f"{former}-backend" in run(started, "logs").stderr
    for command in (("psql", "-c", "SELECT 1"), ("restart",), ("up",), ("dump",), ("snapshot",), ("admin-key",)):
        fail(started, 2, *command, saying=(f"{former}-postgres", former, "`invoke down`"))
    assert len(left(former)) == 3
    result = run(started, "down")
    assert result.returncode == 0, result.stderr
    assert f"{former}-postgres" in result.stderr
    assert left(former) == []
    assert docker("network", "ls", "-q", "--filter", f"label=com.docker.compose.project={former}") == ""
    succeed(started, "up")
    assert tables(started) == ["kept"]


@pytest.mark.alone
def test_a_name_in_the_shell_that_is_gone_is_found_too(copy: Path) -> None:
    former = unique()
    succeed(copy, "up", env={"COMPOSE_PROJECT_NAME": former})
    succeed(copy, "reset-data", "--yes")
    assert left(former) == []
    assert not (copy / "data/pg").exists()


@pytest.mark.alone
def test_both_names_at_once_are_stopped(started: Path) -> None:
    former = rename(started)
    docker("stop", f"{former}-postgres")
    succeed(started, "up")  # what has ended is no second server
    succeed(started, "down")
    assert left(former) == []
    assert containers(started) == {}


@pytest.mark.alone
def test_an_applications_own_containers_beside_are_left_alone(started: Path) -> None:
    image = value(started, "POSTGRES_IMAGE")
    (started / "docker-compose.app.yaml").write_text(
        f"services: {{app: {{image: '{image}', entrypoint: [sleep, '600'], init: true}}}}"
    )
    app = unique()
    argv = ("compose", "-p", app, "-f", str(started / "docker-compose.app.yaml"))
    docker(*argv, "up", "--detach")
    try:
        rename(started)
        succeed(started, "down")
        assert left(app) == [f"{app}-app-1"]
        succeed(started, "init", "--isolated")
    finally:
        docker(*argv, "down", "--timeout", "1")


@pytest.mark.alone
def test_another_checkout_of_the_former_name_is_left_alone(started: Path, tmp_path: Path) -> None:
    label = "com.docker.compose.project"
    former = rename(started)
    with foreign("--label", f"{label}={former}", "--label", f"{label}.working_dir={tmp_path}",
                 "--label", f"{label}.config_files={tmp_path}/docker-compose.yml",
                 "--label", "com.docker.compose.service=postgres",
                 "--label", "com.docker.compose.oneoff=False") as name:  # fmt: skip
        assert succeed(started, "down") == ""
        assert left(former) == [name]


@pytest.mark.alone
def test_init_isolated_is_refused_while_the_stack_runs(started: Path) -> None:
    before = (started / ".env").read_text()
    fail(started, 2, "init", "--isolated", saying=(f"{project(started)}-postgres", "`invoke down`"))
    assert (started / ".env").read_text() == before
    succeed(started, "init")  # which keeps the file
    succeed(started, "down")
    succeed(started, "init", "--isolated")
    succeed(started, "up")


def test_init_isolated_is_refused_while_the_embedded_server_runs(either: Path) -> None:
    succeed(either, "up")
    before = (either / ".env").read_text()
    fail(either, 2, "init", "--isolated", saying=("is running", "`invoke down`"))
    assert (either / ".env").read_text() == before
