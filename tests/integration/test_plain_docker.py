"""The stack without invoke, and what is seen of its containers from outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.checkout import containers, docker, eventually, login, project, run, succeed

PLAIN = ("compose", "-f", "docker-compose.yml", "-f", "docker-compose.dev.yml")


def test_plain_compose_starts_a_stack_that_invoke_then_sees(copy: Path) -> None:
    docker(*PLAIN, "up", "--detach", "--wait", cwd=copy)
    succeed(copy, "wait-healthy")
    assert run(copy, "status").returncode == 0
    login(copy).close()
    query = ("psql", "-U", "postgres", "-d", "convex_poc", "-Atc", "SELECT 'one'")
    assert docker("exec", f"{project(copy)}-postgres", *query) == "one"
    before = containers(copy)
    succeed(copy, "up")
    assert containers(copy) == before
    docker(*PLAIN, "down", cwd=copy)
    assert run(copy, "status").returncode == 3


def inspect(copy: Path, service: str) -> Any:
    return json.loads(docker("inspect", containers(copy)[service]))[0]


@pytest.mark.parametrize("service", ["postgres", "convex-backend", "convex-dashboard"])
def test_every_container_listens_on_loopback_alone_and_gains_no_privileges(shared: Path, service: str) -> None:
    host = inspect(shared, service)["HostConfig"]
    bindings = [each for ports in host["PortBindings"].values() for each in ports]
    assert {each["HostIp"] for each in bindings} == {"127.0.0.1"}
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert not host["Privileged"]
    assert host["PidsLimit"]
    assert host["LogConfig"]["Config"]["max-size"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"


def test_the_database_has_only_what_it_needs(shared: Path) -> None:
    found = inspect(shared, "postgres")
    host = found["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["Init"]
    assert host["CapDrop"] == ["ALL"]
    assert {cap.removeprefix("CAP_") for cap in host["CapAdd"]} == {
        "CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID",
    }  # fmt: skip
    assert host["ShmSize"] >= 256 * 1024 * 1024
    (mount,) = found["Mounts"]
    assert (mount["Type"], mount["Source"]) == ("bind", f"{shared}/data/pg")
    assert "z" in mount["Mode"].split(",")  # as SELinux wants it
    assert docker("exec", containers(shared)["postgres"], "cat", "/proc/1/comm") != "postgres"


def test_the_cluster_has_checksums_and_a_locale_of_its_own(shared: Path) -> None:
    with login(shared) as connection:
        found = connection.execute(
            "SELECT current_setting('data_checksums'), datlocprovider::text, datlocale, pg_encoding_to_char(encoding),"
            " current_setting('password_encryption') FROM pg_database WHERE datname = current_database()"
        ).fetchone()
    assert found == ("on", "b", "C.UTF-8", "UTF8", "scram-sha-256")


@pytest.mark.alone
def test_the_server_comes_back_after_a_crash_and_stops_cleanly(started: Path) -> None:
    kill = "kill -KILL $(head -1 /var/lib/postgresql/data/postmaster.pid)"
    docker("exec", containers(started)["postgres"], "sh", "-c", kill)
    eventually(lambda: inspect(started, "postgres")["RestartCount"] == 1)
    succeed(started, "wait-healthy")
    docker("stop", containers(started)["postgres"])
    assert inspect(started, "postgres")["State"]["ExitCode"] == 0
    assert "database system is shut down" in succeed(started, "logs", "postgres")
