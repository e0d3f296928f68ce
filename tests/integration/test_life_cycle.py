"""up, status, down: what starts, what they say, and that data outlives all of it."""

from __future__ import annotations

import json
import re
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.checkout import (
    containers,
    docker,
    fail,
    login,
    networks,
    project,
    run,
    sql,
    succeed,
    tables,
    value,
)
from tests.integration.terminal import Terminal


def git(copy: Path, *args: str) -> str:
    who = ("-c", "user.name=it", "-c", "user.email=it@example.com", "-c", "commit.gpgsign=false")
    result = subprocess.run(["git", *who, *args], check=True, capture_output=True, text=True, cwd=copy)
    return result.stdout + result.stderr


def test_when_up_returns_the_login_works_at_once_and_only_stderr_says_where(copy: Path) -> None:
    result = run(copy, "up")
    with login(copy) as connection:
        assert connection.info.dbname == "convex_poc"
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    for address in (
        f"postgresql://postgres:postgres@127.0.0.1:{value(copy, 'POSTGRES_PORT')}/convex_poc",
        f"http://127.0.0.1:{value(copy, 'CONVEX_PORT')}",
        f"http://127.0.0.1:{value(copy, 'CONVEX_DASHBOARD_PORT')}",
    ):
        assert address in result.stderr


def test_status_says_the_same_as_a_table_and_as_json(shared: Path) -> None:
    services = json.loads(succeed(shared, "status", "--json"))["services"]
    assert {each["service"]: each["health"] for each in services} == dict.fromkeys(
        ("convex-backend", "convex-dashboard", "postgres"), "healthy"
    )
    database = next(each for each in services if each["service"] == "postgres")
    assert database["version"].startswith("17.")
    assert database["data_bytes"] > 10_000_000
    table = succeed(shared, "status")
    assert "\x1b" not in table
    assert [line.split()[:3] for line in table.splitlines()[1:]] == [
        [each["service"], "running", "healthy"] for each in services
    ]


def test_up_changes_nothing_in_what_is_up(shared: Path) -> None:
    before = containers(shared)
    succeed(shared, "up")
    assert containers(shared) == before
    assert len(before) == 3


def test_down_removes_everything_but_the_data(copy: Path) -> None:
    git(copy, "init", "--quiet")
    git(copy, "add", "--all")
    git(copy, "commit", "--quiet", "--message", "all")
    assert run(copy, "status").returncode == 3
    succeed(copy, "up")
    sql(copy, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (42)")
    assert git(copy, "status", "--porcelain", "--untracked-files=all") == ""
    assert succeed(copy, "down") == ""
    assert containers(copy) == {}
    assert networks(copy) == []
    assert {path.name for path in (copy / "data").iterdir()} >= {".gitkeep", "pg", "convex"}
    assert git(copy, "status", "--porcelain", "--untracked-files=all") == ""
    assert run(copy, "status").returncode == 3
    services = json.loads(run(copy, "status", "--json").stdout)["services"]
    assert {each["state"] for each in services} == {"not running"}
    succeed(copy, "down")  # nothing is there to stop: no failure
    assert "healthy" in succeed(copy, "up", "status")
    assert sql(copy, "SELECT n FROM kept") == [42]


def test_on_a_terminal_up_says_the_same(shared: Path) -> None:
    with closing(Terminal(shared, "up")) as terminal:
        assert terminal.wait() == 0
        assert f"127.0.0.1:{value(shared, 'POSTGRES_PORT')}/convex_poc" in terminal.said


def test_up_mends_a_stack_of_which_a_part_is_gone(started: Path) -> None:
    sql(started, "CREATE TABLE kept ()")
    here = containers(started)
    docker("rm", "--force", here["convex-backend"])
    docker("stop", here["postgres"])
    assert run(started, "status").returncode == 1
    succeed(started, "up")
    assert run(started, "status").returncode == 0
    assert tables(started) == ["kept"]


@pytest.mark.alone
def test_without_waiting_up_returns_and_wait_healthy_waits(copy: Path) -> None:
    succeed(copy, "up", "--no-wait")
    assert succeed(copy, "wait-healthy") == ""
    assert tables(copy) == []


def test_each_layer_adds_services_and_down_stops_all_of_them(copy: Path, images: dict[str, str]) -> None:
    extra = f"services: {{extra: {{image: '{images['POSTGRES_IMAGE']}', entrypoint: [sleep, '600'], init: true}}}}"
    (copy / "docker-compose.extra.yml").write_text(extra)
    base = run(copy, "up", "--layers", "")
    assert base.returncode == 0, base.stderr
    assert "postgresql://" not in base.stderr
    assert sorted(containers(copy)) == ["convex-backend", "convex-dashboard"]
    fail(copy, 1, "psql", "-c", "SELECT 1", saying=("postgres is not running", "invoke up"))
    succeed(copy, "up", "--layers", "dev,extra")
    assert sorted(containers(copy)) == ["convex-backend", "convex-dashboard", "extra", "postgres"]
    # What was named once is known to the commands that follow.
    assert "extra" in succeed(copy, "status")
    assert fail(copy, 2, "logs", "nosuch").count("extra") == 1
    succeed(copy, "logs", "extra")
    succeed(copy, "restart", "extra")
    told = run(copy, "up").stderr  # without that layer
    (name,) = re.findall(r"Still running, though no layer of now has it: (\S+)\. `docker stop \1` ends", told)
    assert name in run(copy, "status").stderr
    docker("stop", name)  # the cure
    assert "Still running" not in run(copy, "status").stderr
    succeed(copy, "up", "--layers", "dev,extra")
    succeed(copy, "down")
    assert containers(copy) == {}
    assert "extra" in run(copy, "status").stdout
    (copy / "docker-compose.extra.yml").unlink()
    fail(copy, 2, "status", saying=("docker-compose.extra.yml does not exist", "type `invoke up`"))
    succeed(copy, "up")  # the cure
    assert "extra" not in succeed(copy, "status")


def test_restart_restarts_one_service_or_all(shared: Path) -> None:
    def since() -> dict[str, str]:
        here = containers(shared)
        return {name: docker("inspect", "-f", "{{.State.StartedAt}}", here[name]) for name in here}

    first = since()
    succeed(shared, "restart", "postgres")
    assert tables(shared) == []
    second = since()
    assert {name for name in first if first[name] != second[name]} == {"postgres"}
    succeed(shared, "restart")
    third = since()
    assert not set(second.values()) & set(third.values())
    fail(shared, 2, "restart", "mysql", saying=("mysql", "convex-backend, convex-dashboard, postgres"))
    assert since() == third


def test_logs_are_those_that_were_asked_for(shared: Path) -> None:
    everything = succeed(shared, "logs")
    assert f"{project(shared)}-postgres" in everything
    assert f"{project(shared)}-backend" in everything
    lines = succeed(shared, "logs", "postgres", "--tail", "3").splitlines()
    assert 1 <= len(lines) <= 3
    assert all("postgres" in line for line in lines)
    assert "\x1b" not in everything  # nobody reads this on a terminal
    fail(shared, 2, "logs", "mysql", saying=("mysql", "convex-backend, convex-dashboard, postgres"))


@pytest.mark.parametrize(
    "command", [("psql", "-c", "SELECT 1"), ("admin-key",), ("dashboard",), ("restart",), ("seed",)]
)
def test_what_needs_a_running_stack_says_how_to_start_it(copy: Path, command: tuple[str, ...]) -> None:
    (copy / "seed" / "010.sql").write_text("SELECT 1")
    fail(copy, 1, *command, saying=("running", "`invoke up`"))
    assert containers(copy) == {}
