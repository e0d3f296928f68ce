"""Faults that are caused for real, and what `invoke doctor` and `invoke up` say of them and do about them."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stack.ground.catalog import PORTS
from tests.integration.checkout import (
    configure,
    containers,
    docker,
    fail,
    foreign,
    images,
    login,
    run,
    sql,
    succeed,
    tables,
    value,
)
from tests.integration.conftest import Make

DATA = "/var/lib/postgresql/data"


@pytest.fixture(scope="module")
def stack(make_shared: Make) -> Path:
    """A copy whose stack is up, with a table to lose."""
    copy = make_shared()
    (copy / ".env").chmod(0o600)
    succeed(copy, "up")
    sql(copy, "CREATE TABLE kept ()")
    return copy


@pytest.fixture
def up(stack: Path) -> Iterator[Path]:
    """The same as it was before each test."""
    before = (stack / ".env").read_text()
    yield stack
    (stack / ".env").write_text(before)
    (stack / ".env").chmod(0o600)
    assert tables(stack) == ["kept"], "doctor has lost data"


@pytest.fixture
def down(copy: Path) -> Path:
    """A copy with no stack, PostgreSQL alone so that it starts quickly."""
    (copy / ".env").chmod(0o600)
    base = (copy / "docker-compose.yml").read_text()
    (copy / "docker-compose.yml").write_text(base.partition("x-common:")[0])
    return copy


def ask(copy: Path, *options: str, code: int | None = None, **how: Any) -> dict[str, dict[str, Any]]:
    """Run `invoke doctor --json` and return the worst that each check found; its exit code must fit that."""
    result = run(copy, "doctor", "--json", *options, **how)
    found = json.loads(result.stdout)["findings"]
    assert result.returncode == any(row["state"] == "failed" for row in found), result.stdout
    assert code in (None, result.returncode), result.stdout + result.stderr
    order = ("skipped", "ok", "warning", "failed")
    return {row["check"]: row for row in sorted(found, key=lambda row: order.index(row["state"]))}


def as_root(copy: Path, script: str) -> None:
    """Run a shell script in data/ with the rights of a container's user."""
    docker("run", "--rm", "--network", "none", "--user", "0", "--volume", f"{copy}/data:/w", "--workdir", "/w",
           "--entrypoint", "sh", images()["POSTGRES_IMAGE"], "-c", script)  # fmt: skip


def compose(copy: Path, *args: str) -> None:
    """Run plain `docker compose` in a copy."""
    docker("compose", "-f", "docker-compose.yml", "-f", "docker-compose.dev.yml", *args, cwd=copy)


def test_a_stack_in_good_health(up: Path) -> None:
    found = ask(up, code=0)
    state = found.pop("minor version")["state"]  # there may be a newer image than the one that is tested
    assert state in ("ok", "warning")
    assert {row["state"] for row in found.values()} == {"ok"}
    lines = succeed(up, "doctor").splitlines()
    assert len(lines) == len(found) + 1
    assert all(line.startswith(("ok ", f"{state:8} minor version")) for line in lines)


def test_an_image_of_an_older_minor_release(up: Path, tmp_path: Path) -> None:
    """Of the real image, in a checkout that knows a newer release."""
    found = ask(up, code=0)["minor version"]
    runs = json.loads(succeed(up, "status", "--json"))["services"]
    version = next(each["version"] for each in runs if each["service"] == "postgres")
    assert f"PostgreSQL {version}" in found["message"]  # as `status` tells it
    room = up / "stack" / "server" / "releases.py"
    before = room.read_text()
    room.write_text(before.replace('NEWEST = "', 'NEWEST = "17.999" or "'))
    try:
        found = ask(up, code=0)["minor version"]
    finally:
        room.write_text(before)
    assert found["state"] == "warning"
    assert f"This is PostgreSQL {version}" in found["message"]
    assert "`invoke up --pull`" in found["cure"]


def test_another_password_is_healed(up: Path) -> None:
    configure(up, POSTGRES_PASSWORD="hunter2")
    said = fail(up, 1, "up", saying=("initialised with another password", "`invoke doctor --fix`"), within=20)
    assert "hunter2" not in said
    found = ask(up, code=1)
    assert found["log in"]["message"] == "The data was initialised with another password."
    assert "`invoke doctor --fix`" in found["log in"]["cure"]
    assert found["checksums"]["state"] == "skipped"
    status = run(up, "status")
    assert "hunter2" not in status.stdout + status.stderr
    with pytest.raises(psycopg.OperationalError):
        login(up)
    found = ask(up, "--fix", code=0)
    assert (found["log in"]["state"], found["log in"]["fixed"]) == ("ok", True)
    succeed(up, "wait-healthy")
    configure(up, POSTGRES_PASSWORD="postgres")
    result = run(up, "doctor", "--fix")
    assert result.returncode == 0
    assert "fixed    log in" in result.stdout
    succeed(up, "snapshots")  # though the container still has the password that it was made with


def test_a_dropped_database_is_made_again(up: Path) -> None:
    configure(up, POSTGRES_DB="another")
    assert "'another', but convex_poc and postgres" in ask(up, code=1)["log in"]["message"]
    assert ask(up, "--fix", code=0)["log in"]["fixed"]
    sql(up, "DROP DATABASE another WITH (FORCE)", dbname="postgres")
    assert ask(up, code=1)["log in"]["state"] == "failed"
    assert ask(up, "--fix", code=0)["log in"]["fixed"]
    assert tables(up) == []
    sql(up, "DROP DATABASE another WITH (FORCE)", dbname="postgres")


def test_a_user_whom_the_data_does_not_know(up: Path) -> None:
    configure(up, POSTGRES_USER="somebody")
    found = ask(up, "--fix", code=1)
    assert "no 'somebody', but postgres" in found["log in"]["message"]
    assert "POSTGRES_USER" in found["log in"]["cure"]


def test_an_invalid_index(up: Path) -> None:
    sql(up, "CREATE TABLE twice (n) AS VALUES (1), (1)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        sql(up, "CREATE UNIQUE INDEX CONCURRENTLY broken ON twice (n)")
    found = ask(up, code=0)
    assert found["indexes"]["state"] == "warning"
    assert "REINDEX INDEX CONCURRENTLY broken" in found["indexes"]["cure"]
    sql(up, "DROP TABLE twice")


def test_an_env_file_that_others_can_read(up: Path) -> None:
    (up / ".env").chmod(0o644)
    assert ask(up, code=0)["env secrets"]["state"] == "warning"
    assert ask(up, "--fix")["env secrets"]["fixed"]
    assert (up / ".env").stat().st_mode & 0o777 == 0o600


def test_leftovers_of_another_user(up: Path) -> None:
    as_root(up, "mkdir -m 700 .wiped-pg-1 && touch .wiped-pg-1/x && chown -R 999 .wiped-pg-1")
    assert ".wiped-pg-1" in ask(up, code=0)["leftovers"]["message"]
    assert ask(up, "--fix")["leftovers"]["fixed"]
    assert not (up / "data" / ".wiped-pg-1").exists()


def test_files_that_were_given_to_another_user(up: Path) -> None:
    as_root(up, "chown -R 0:0 pg")
    found = ask(up, code=1)
    assert "given to another user" in found["log in"]["message"]
    assert "reset" not in found["log in"]["cure"]  # nothing is wrong with the data
    succeed(up, "restart", "postgres")
    assert ask(up, code=0)["log in"]["state"] == "ok"


def test_a_service_that_is_ill_is_a_failure_and_no_docker_skips_the_rest(up: Path) -> None:
    docker("stop", containers(up)["convex-dashboard"])
    assert "convex-dashboard is exited" in ask(up, code=1)["services"]["message"]
    succeed(up, "up")
    found = ask(up, code=1, env={"DOCKER_HOST": "unix:///nonexistent"})
    assert "Docker does not answer" in found["platform"]["message"]
    assert "Start it" in found["platform"]["cure"]
    assert [name for name, row in found.items() if row["state"] == "ok"] == ["env file", "env secrets", "machine"]


def test_another_checkout_of_the_same_name(up: Path, make: Make) -> None:
    second = make(**{name: value(up, name) for name in ("COMPOSE_PROJECT_NAME", *PORTS)})
    found = ask(second, code=1)
    assert str(up) in found["project name"]["message"]
    assert "`invoke init --isolated`" in found["project name"]["cure"]
    assert found["log in"]["state"] == "skipped"


def test_a_broken_env_file_is_still_a_report(copy: Path) -> None:
    configure(copy, POSTGRES_PASSWORD="pa$word-hunter2")
    result = run(copy, "doctor", "--fix")
    assert result.returncode == 1
    line = next(line for line in result.stdout.splitlines() if " env file " in line)
    assert line.startswith("failed")
    assert "POSTGRES_PASSWORD='…'" in line
    assert "hunter2" not in result.stdout + result.stderr


def test_ports_that_a_container_and_a_process_hold(copy: Path) -> None:
    database, backend = value(copy, "POSTGRES_PORT"), value(copy, "CONVEX_PORT")
    with foreign("--publish", f"127.0.0.1:{database}:80") as name, socket.create_server(("127.0.0.1", int(backend))):
        process = f"(process {os.getpid()})"
        for said in (ask(copy, code=1)["ports"]["message"], fail(copy, 1, "up", saying=("`invoke init --isolated`",))):
            assert f"Port {database} is taken by the container {name}" in said
            assert f"Port {backend} is taken by " in said
            assert process in said
    assert containers(copy) == {}, "up has begun to start what cannot be"
    assert ask(copy, code=0)["ports"]["state"] == "ok"


def test_a_port_that_only_a_layer_publishes(down: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = f'!override ["127.0.0.1:{port}:5432"]'
        (down / "docker-compose.mine.yml").write_text(f"services: {{postgres: {{ports: {ports}}}}}")
        configure(down, STACK_LAYERS="dev,mine")
        fail(down, 1, "up", saying=(f"Port {port} is taken by", f"process {os.getpid()}"))
        assert f"process {os.getpid()}" in ask(down, code=1)["ports"]["message"]
    configure(down, POSTGRES_PORT=str(port), STACK_LAYERS="dev")
    with socket.create_server(("127.0.0.1", 0)) as taken:  # a port of the settings that no layer publishes
        configure(down, CONVEX_PORT=str(taken.getsockname()[1]))
        succeed(down, "up", "--no-wait")


def test_data_of_another_major_version(down: Path) -> None:
    succeed(down, "up")
    sql(down, "CREATE TABLE kept ()")
    succeed(down, "down")
    as_root(down, "echo 16 >pg/PG_VERSION")
    found = ask(down, code=1)
    assert "made by PostgreSQL 16, and the stack runs 17" in found["data version"]["message"]
    steps = ("POSTGRES_IMAGE=postgres:16 invoke up", "invoke dump old.dump", "invoke reset-data --service pg",
             "invoke up", "invoke load old.dump")  # fmt: skip
    for step in steps:
        assert f"`{step}`" in found["data version"]["cure"]
    fail(down, 1, "up", saying=("made by PostgreSQL 16, and the stack runs 17", *steps), within=20)
    compose(down, "up", "-d")
    fail(down, 1, "wait-healthy", saying=("made by PostgreSQL 16, and the stack runs 17", *steps), within=20)
    compose(down, "down")
    as_root(down, "echo 17 >pg/PG_VERSION")  # now the old image is the one that is here
    old = {"POSTGRES_IMAGE": value(down, "POSTGRES_IMAGE")}
    for step in steps:
        options = {"env": old} if step.startswith("POSTGRES_IMAGE") else {}
        succeed(down, *step.partition("invoke ")[2].split(), *["--yes"] * ("reset" in step), **options)
    assert tables(down) == ["kept"]


def test_a_first_start_that_was_cut_short(down: Path) -> None:
    succeed(down, "up")
    succeed(down, "down")
    as_root(down, "sed -i '/^host all all all/d' pg/pg_hba.conf")
    found = ask(down, code=1)
    assert "lets nobody in but the container itself" in found["first start"]["message"]
    assert "`invoke reset-data --service pg`" in found["first start"]["cure"]
    assert "MB and no table" in found["first start"]["message"] + found["first start"]["cure"]
    as_root(down, "rm pg/global/pg_control")
    assert "pg_control is missing" in ask(down, code=1)["first start"]["message"]
    as_root(down, "rm -rf pg && mkdir pg && touch pg/stray")
    assert "no cluster" in ask(down, code=1)["first start"]["message"]
    succeed(down, "reset-data", "--service", "pg", "--yes")
    assert ask(down, code=0)["first start"]["message"] == "there is no data yet"


def test_a_data_directory_that_is_a_link(down: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (down / "data" / "pg").symlink_to(tmp_path / "elsewhere")
    found = ask(down, code=1)  # as nothing is started on it
    assert found["directories"]["state"] == "failed"
    assert str(tmp_path / "elsewhere") in found["directories"]["message"]
    (tmp_path / "elsewhere").rmdir()
    assert ask(down, code=1)["directories"]["state"] == "failed"
