"""What goes wrong while containers start: one paragraph with what, why and what to type, soon, and never success."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from stack.engines.docker.engine import Docker
from stack.ground import settings
from tests.integration.checkout import (
    ALONE,
    configure,
    docker,
    fail,
    foreign,
    project,
    run,
    sql,
    succeed,
    tables,
    value,
)


def layer(copy: Path, service: str, **what: object) -> None:
    """Choose a layer above dev that changes a service."""
    (copy / "docker-compose.broken.yml").write_text(json.dumps({"services": {service: what}}))
    configure(copy, STACK_LAYERS=f"{value(copy, 'STACK_LAYERS')},broken")


def test_a_port_that_is_taken_is_named_with_its_holder(copy: Path) -> None:
    database, backend = value(copy, "POSTGRES_PORT"), value(copy, "CONVEX_PORT")
    with foreign("--publish", f"127.0.0.1:{database}:80") as name:
        fail(copy, 1, "up", saying=(f"Port {database} is taken by the container {name}", "`invoke init --isolated`"))
    for port in (database, backend):
        succeed(copy, "down")
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections linger
            taken.bind(("127.0.0.1", int(port)))
            taken.listen()
            fail(copy, 1, "up", saying=(f"Port {port} is taken by ", "(process ", "`invoke init --isolated`"))
    succeed(copy, "up")


FORWARDS = """
import socket, sys, time
taken = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listens", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.alone
def test_the_program_that_forwards_a_port_is_waited_for(copy: Path, tmp_path: Path) -> None:
    """As Docker leaves it for a moment, when it has ended a container late."""
    port, program = value(copy, "POSTGRES_PORT"), tmp_path / "docker-proxy"
    program.symlink_to(os.path.realpath(sys.executable))
    for seconds in ("2", "60"):
        argv = [str(program), "-c", FORWARDS, port, seconds]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as forwards:
            assert forwards.stdout
            assert forwards.stdout.readline() == b"listens\n"
            try:
                if seconds == "2":
                    succeed(copy, "up")
                    succeed(copy, "down")
                else:
                    fail(copy, 1, "up", saying=(f"Port {port} is taken by docker-proxy",))
            finally:
                forwards.kill()


@pytest.mark.alone
def test_a_container_of_ours_that_comes_up_after_the_look_has_its_port(started: Path) -> None:
    """As where a command was killed and its Compose goes on."""
    docker("stop", f"{project(started)}-postgres")
    engine = Docker(settings.load(started, {}), started)
    before = engine.containers.rows()
    docker("start", f"{project(started)}-postgres")
    engine.preflight.check_ports(before)


@pytest.mark.alone
def test_a_container_that_keeps_ending_ends_the_wait_and_can_be_mended(started: Path) -> None:
    sql(started, "CREATE TABLE kept ()")
    layer(started, "postgres", command=["postgres", "-c", "no_such_setting=1"])
    reason = 'unrecognized configuration parameter "no_such_setting"'
    fail(started, 1, "up", "--timeout", "60", saying=("postgres", reason, "`invoke logs postgres`"), within=20)
    configure(started, **ALONE)
    succeed(started, "up")
    assert tables(started) == ["kept"]


@pytest.mark.alone
def test_a_container_that_ends_in_its_first_start_can_be_started_over(copy: Path) -> None:
    layer(copy, "postgres", command=["postgres", "-c", "no_such_setting=1"])
    fail(copy, 1, "up", saying=("postgres", "no_such_setting"), within=20)
    configure(copy, **ALONE)
    saying = ("postgres", "MB and no table", "`invoke doctor --fix`", "`invoke reset-data --service pg`")
    fail(copy, 1, "up", saying=saying, within=20)  # the image never finishes such data
    succeed(copy, "doctor", "--fix")
    succeed(copy, "up")
    succeed(copy, "reset-data", "--service", "pg", "--yes")
    succeed(copy, "up")


def test_a_container_that_ends_and_stays_so_ends_the_wait(copy: Path) -> None:
    layer(copy, "convex-dashboard", entrypoint=["sh", "-c", "echo these are my last words; exit 7"], restart="no")
    fail(copy, 1, "up", saying=("convex-dashboard", "exit code 7", "these are my last words"), within=20)


@pytest.mark.alone
def test_an_image_that_says_not_what_to_run_is_named(copy: Path, tmp_path: Path) -> None:
    image = f"{value(copy, 'COMPOSE_PROJECT_NAME')}:nothing"
    tarfile.open(tmp_path / "empty.tar", "w").close()
    docker("import", str(tmp_path / "empty.tar"), image)
    try:
        said = f"{image} (of postgres) names no command. It said:\nError response from daemon: no command specified"
        before = value(copy, "POSTGRES_IMAGE")
        configure(copy, POSTGRES_IMAGE=image)
        fail(copy, 1, "up", saying=(said, "(POSTGRES_IMAGE)", "`command:`", "`invoke up`"), within=20)
        configure(copy, POSTGRES_IMAGE=before)
        succeed(copy, "up")
        (copy / "docker-compose.broken.yml").write_text(json.dumps({"services": {"mine": {"image": image}}}))
        configure(copy, STACK_LAYERS=f"{value(copy, 'STACK_LAYERS')},broken")
        fail(copy, 1, "up", saying=(f"{image} (of mine) names no command", "`command:`"), within=20)
    finally:
        docker("image", "rm", image)


@pytest.mark.parametrize("service", ["postgres", "convex-backend"])
def test_a_service_that_never_gets_healthy_ends_at_the_deadline(copy: Path, service: str) -> None:
    layer(copy, service, healthcheck={"test": ["CMD-SHELL", "echo not yet, it says; exit 1"]})
    for command, seconds in (("up", 5), ("wait-healthy", 2)):
        saying = (service, f"{seconds} s", "not yet, it says", f"`invoke logs {service}`")
        fail(copy, 1, command, "--timeout", str(seconds), saying=saying, within=seconds + 6)
    assert run(copy, "status").returncode == 1


@pytest.mark.alone
def test_a_full_disk_is_told(copy: Path) -> None:
    disk = 'type: tmpfs, target: /var/lib/postgresql/data, tmpfs: {size: "9000000"}'
    (copy / "docker-compose.small.yml").write_text(f"services: {{postgres: {{volumes: !override [{{{disk}}}]}}}}")
    fail(copy, 1, "up", "--layers", "dev,alone,small", saying=("postgres", "No space left on device"), within=20)
