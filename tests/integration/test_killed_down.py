"""A `down` that is killed at any moment, Docker's own too: the next `up` gives a server that stays."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.integration.checkout import (
    configure,
    containers,
    docker,
    environment,
    eventually,
    project,
    run,
    sql,
    succeed,
    value,
)
from tests.integration.test_interrupts import begin, ended

MOMENTS = (0.05, 0.15, 0.25, 0.35, 0.5, 0.7, 1.0, 1.5)
"""Seconds after the beginning; a `down` of one service takes about 0.8."""


@contextmanager
def killed(child: subprocess.Popen[str], after: float) -> Iterator[None]:
    """Kill a command and all that it started, unless it has ended before."""
    with ended(child):
        with suppress(subprocess.TimeoutExpired):
            child.wait(after)
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        yield


@contextmanager
def killed_while_it_stops(copy: Path, child: subprocess.Popen[str]) -> Iterator[None]:
    """Kill a `down` once Docker has been told to stop the deaf service."""
    deaf = containers(copy)["deaf"]
    since = str(int(time.time()) - 1)
    asking = ("--since", since, "--until", "0s", "--filter", "event=kill", "--filter", f"container={deaf}")
    eventually(lambda: docker("events", *asking))
    with killed(child, 0):
        yield


def plain(copy: Path) -> subprocess.Popen[str]:
    argv = ["docker", "compose", "-p", project(copy), "--project-directory", str(copy), "down", "--remove-orphans"]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            cwd=copy, env=environment(), start_new_session=True)  # fmt: skip


@pytest.mark.alone
@pytest.mark.parametrize("which", ["invoke down", "docker compose down"])
def test_up_after_a_down_that_was_killed_at_any_moment(started: Path, which: str) -> None:
    sql(started, "CREATE TABLE kept (n int)")
    for number, moment in enumerate(MOMENTS):
        with killed(begin(started, "down") if which == "invoke down" else plain(started), moment):
            succeed(started, "up")
        sql(started, f"INSERT INTO kept VALUES ({number})")
    assert sql(started, "SELECT count(*) FROM kept") == [len(MOMENTS)]
    assert not list((started / "data").glob(".stopping*"))


@pytest.fixture
def slow(copy: Path) -> Path:
    """A copy with a service that does not hear the stop signal, so that Docker kills it after four seconds."""
    image = value(copy, "POSTGRES_IMAGE")
    (copy / "docker-compose.deaf.yml").write_text(
        f"services: {{deaf: {{image: '{image}', entrypoint: [sh, -c, 'trap \"\" TERM INT; while :; do sleep 1; done'],"
        " stop_signal: SIGTERM, stop_grace_period: 4s, restart: unless-stopped}}"
    )
    configure(copy, STACK_LAYERS="dev,alone,deaf")
    return copy


@pytest.mark.alone
@pytest.mark.parametrize("which", ["invoke down", "docker compose down"])
def test_a_stop_that_docker_still_has_to_deliver_does_not_hit_the_new_start(slow: Path, which: str) -> None:
    succeed(slow, "up")
    with killed_while_it_stops(slow, begin(slow, "down") if which == "invoke down" else plain(slow)):
        succeed(slow, "up")
    before = containers(slow, "status=running")
    assert sorted(before) == ["deaf", "postgres"]
    time.sleep(15)
    assert containers(slow, "status=running") == before
    sql(slow, "SELECT 1")


@pytest.mark.alone
def test_a_down_that_was_killed_is_said_to_be_finished(slow: Path) -> None:
    succeed(slow, "up")
    with killed_while_it_stops(slow, begin(slow, "down")):
        result = run(slow, "up")
    assert result.returncode == 0, result.stderr
    assert "Finishing the `down` that was interrupted" in result.stderr
    assert "Finishing" not in run(slow, "up").stderr


@pytest.mark.alone
def test_restart_after_a_killed_down_says_that_nothing_runs(slow: Path) -> None:
    succeed(slow, "up")
    with killed_while_it_stops(slow, begin(slow, "down")):
        result = run(slow, "restart")
    assert result.returncode == 1
    assert "`invoke up`" in result.stderr
    succeed(slow, "up")


@pytest.mark.alone
def test_a_container_that_is_being_removed_is_waited_for(started: Path) -> None:
    for _ in range(3):
        argv = ["docker", "rm", "--force", f"{project(started)}-postgres"]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            time.sleep(0.05)
            succeed(started, "up")
        sql(started, "SELECT 1")
    docker("version")
