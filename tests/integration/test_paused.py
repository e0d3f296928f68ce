"""A stack that somebody has paused: told as it is, and brought back."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.integration import checkout
from tests.integration.checkout import containers, docker, eventually, fail, run, sql, succeed, value


def pause(copy: Path) -> None:
    if value(copy, "STACK_ENGINE") == "docker":
        docker("pause", *containers(copy).values())
        return
    server = psutil.Process(int((copy / "data" / "embedded" / "postmaster.pid").read_text().split()[0]))
    for process in (server, *server.children()):
        os.kill(process.pid, signal.SIGSTOP)


@pytest.fixture
def held(either: Path) -> Path:
    """A stack with a row in it that is paused."""
    succeed(either, "up")
    sql(either, "CREATE TABLE kept AS SELECT 1 AS n")
    pause(either)
    return either


@pytest.mark.parametrize("command", ["up", "up --no-wait", "wait-healthy", "restart", "restart postgres"])
def test_a_paused_stack_is_brought_back(held: Path, command: str) -> None:
    begun = time.monotonic()
    said = run(held, *command.split())
    assert said.returncode == 0, said.stderr
    assert time.monotonic() - begun < 20
    assert sql(held, "SELECT n FROM kept") == [1]
    eventually(lambda: run(held, "status").returncode == 0)
    if "restart" not in command:
        assert "postgres was paused, and can go on now." in said.stderr


def test_every_command_tells_that_it_is_paused_and_what_to_type(held: Path) -> None:
    told = "postgres is paused, so it answers nobody. Type `invoke up`, which lets it go on."
    for line in (["psql", "-c", "select 1"], ["psql", "--", "-l"], ["dump", "x.dump"], ["snapshot"], ["snapshots"],
                 ["restore"], ["seed"]):  # fmt: skip
        if line == ["seed"]:
            (held / "seed" / "010.sql").write_text("SELECT 1;")
        assert told in fail(held, 1, *line, within=15), line
    shown = run(held, "status", "--json")
    assert (shown.returncode, json.loads(shown.stdout)["services"][0]["state"]) == (1, "paused")
    checked = run(held, "doctor")
    assert checked.returncode == 1
    assert told in " ".join(checked.stdout.split())
    assert not (held / "x.dump").exists()
    succeed(held, *told.partition("`invoke ")[2].partition("`")[0].split())  # the cure
    assert sql(held, "SELECT n FROM kept") == [1]


def test_down_stops_a_paused_stack_cleanly(held: Path) -> None:
    assert run(held, "down").returncode == 0
    assert run(held, "status").returncode == 3
    succeed(held, "up")
    assert sql(held, "SELECT n FROM kept") == [1]
    log = run(held, "logs", "postgres")
    assert "was not properly shut down" not in log.stdout + log.stderr


def test_one_paused_service_of_several_is_brought_back(started: Path) -> None:
    docker("pause", containers(started)["convex-dashboard"])
    said = run(started, "up")
    assert said.returncode == 0
    assert "convex-dashboard was paused, and can go on now." in said.stderr
    assert checkout.docker("inspect", "-f", "{{.State.Status}}", containers(started)["convex-dashboard"]) == "running"
