"""One save point for both stores: told by a number that stands in each, in Convex's own database and in PostgreSQL."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import psycopg
import pytest

from tests.integration.checkout import (
    INVOKE,
    STAND_INS,
    containers,
    docker,
    eventually,
    fail,
    login,
    run,
    sql,
    succeed,
)
from tests.integration.conftest import Make
from tests.integration.test_convex import get, layer

pytestmark = pytest.mark.usefixtures("counted")

KILLS = 8
BACK = "`invoke undo` takes that back."


@pytest.fixture
def both(started: Path) -> Path:
    """A stack with the number 1 in both stores."""
    sql(started, "CREATE TABLE counter AS SELECT 0 AS n")
    both_raise(started)
    return started


def convex(copy: Path, *, raised: bool = False) -> int:
    status, number = get(copy, "CONVEX_PORT", f"/stand-in/counter{'/raise' * raised}")
    assert status == 200
    return int(number)


def postgres(copy: Path) -> int:
    return int(sql(copy, "SELECT n FROM counter")[0])


def both_raise(copy: Path) -> None:
    sql(copy, f"UPDATE counter SET n = {convex(copy, raised=True)}")


def numbers(copy: Path) -> tuple[int, int]:
    return postgres(copy), convex(copy)


def halves(copy: Path, kind: str = "") -> list[Path]:
    return sorted((copy / "data").glob(f".convex-*-{kind}*"))


def test_restore_brings_both_back_and_undo_too(both: Path) -> None:
    took = run(both, "snapshot", "one")
    assert took.returncode == 0
    assert " and Convex (" in took.stderr
    assert "which stood still for 0." in took.stderr
    assert "`invoke restore one` brings both back." in took.stderr
    assert numbers(both) == (1, 1)
    both_raise(both)
    backend = containers(both)["convex-backend"]
    told = run(both, "restore", "one")
    assert told.returncode == 0
    assert "convex_poc and Convex are as they were when the snapshot one was taken" in told.stderr
    assert BACK in told.stderr
    assert numbers(both) == (1, 1)
    assert containers(both)["convex-backend"] == backend
    assert "convex_poc and Convex as they were before `invoke restore one`" in run(both, "snapshots").stderr
    assert "convex_poc and Convex are as they were before `invoke restore one`" in run(both, "undo").stderr
    assert numbers(both) == (2, 2)
    succeed(both, "undo")
    assert numbers(both) == (1, 1)
    succeed(both, "undo")
    assert numbers(both) == (2, 2)
    listed = json.loads(succeed(both, "snapshots", "--json"))
    assert listed[0]["convex"]["image"] == STAND_INS["CONVEX_BACKEND_IMAGE"]
    assert 10_000 < listed[0]["convex"]["bytes"] < 10_000_000
    assert "CONVEX" in succeed(both, "snapshots").splitlines()[0]


def test_one_of_them_is_brought_back_alone(both: Path) -> None:
    succeed(both, "snapshot", "one")
    both_raise(both)
    assert "convex_poc is as it was" in run(both, "restore", "one", "--only", "pg").stderr
    assert numbers(both) == (1, 2)
    succeed(both, "undo")
    assert numbers(both) == (2, 2)
    told = run(both, "restore", "one", "--only", "convex")
    assert told.returncode == 0
    assert "Convex is as it was when the snapshot one was taken" in told.stderr
    assert numbers(both) == (2, 1)
    assert "Convex is as it was before `invoke restore one --only convex`" in run(both, "undo").stderr
    assert numbers(both) == (2, 2)
    succeed(both, "undo")
    assert numbers(both) == (2, 1)
    assert "Leave out --keep" in fail(both, 2, "restore", "one", "--only", "convex", "--keep")
    assert "Choose one of: pg, convex, both" in fail(both, 2, "restore", "one", "--only", "convexx")
    succeed(both, "snapshot", "alone", "--only", "pg")
    assert "has the database alone" in fail(both, 2, "restore", "alone", "--only", "convex")
    told = run(both, "restore", "alone")
    assert "The snapshot alone has the database alone: Convex stays as it is." in told.stderr
    assert numbers(both) == (2, 1)


def test_a_setting_leaves_convex_out(make: Make) -> None:
    copy = make(STACK_SNAPSHOT="pg")
    succeed(copy, "up")
    assert "Convex" not in run(copy, "snapshot", "one").stderr
    assert "CONVEX" not in succeed(copy, "snapshots")
    assert halves(copy) == []
    assert " and Convex (" in run(copy, "snapshot", "two", "--only", "both").stderr


def test_what_is_replaced_is_kept_whole(both: Path) -> None:
    succeed(both, "snapshot", "one")
    both_raise(both)
    told = run(both, "restore", "one", "--keep").stderr
    name = told.split("What is replaced stays as the snapshot ")[1].split(".\n")[0]
    assert numbers(both) == (1, 1)
    succeed(both, "restore", name)
    assert numbers(both) == (2, 2)


def test_convex_that_has_not_changed_is_left_running(both: Path) -> None:
    succeed(both, "snapshot", "one")
    sql(both, "UPDATE counter SET n = 7")
    begun = docker("inspect", "--format", "{{.State.StartedAt}}", containers(both)["convex-backend"])
    assert "Convex has not changed since, and was left running." in run(both, "restore", "one").stderr
    assert numbers(both) == (1, 1)
    assert docker("inspect", "--format", "{{.State.StartedAt}}", containers(both)["convex-backend"]) == begun


def test_what_belongs_to_a_snapshot_goes_with_it_and_comes_back(both: Path) -> None:
    succeed(both, "snapshot", "one")
    (half,) = halves(both, "snapshot")
    succeed(both, "drop-snapshot", "one", "--yes")
    assert half.exists()  # `undo` wants it
    succeed(both, "undo")
    both_raise(both)
    succeed(both, "restore", "one")
    assert numbers(both) == (1, 1)
    succeed(both, "snapshot", "one", "--replace")
    assert not half.exists()
    succeed(both, "drop-snapshot", "one", "--yes")
    succeed(both, "snapshot", "two", "--only", "pg")
    succeed(both, "drop-snapshot", "two", "--yes")
    eventually(lambda: halves(both) == [])
    assert numbers(both) == (1, 1)


def test_no_half_is_restored_as_if_it_were_whole(both: Path) -> None:
    succeed(both, "snapshot", "one")
    eventually(lambda: halves(both, "spare"))
    for half in halves(both):
        shutil.rmtree(half)
    both_raise(both)
    told = fail(both, 2, "restore", "one")
    assert "Convex's part of the snapshot one is gone" in told
    assert "invoke restore one --only pg" in told
    assert numbers(both) == (2, 2)
    succeed(both, "restore", "one", "--only", "pg")  # the cure
    assert numbers(both) == (1, 2)


def test_a_convex_that_cannot_be_copied_stops_nothing_but_the_snapshot(make: Make) -> None:
    copy = make(STACK_LAYERS="dev,mine")
    (copy / "docker-compose.mine.yml").write_text("services: {convex-dashboard: !reset null}\n")
    succeed(copy, "up")
    (copy / "docker-compose.mine.yml").write_text(
        "services: {convex-dashboard: !reset null, convex-backend: {image: 'standin/none:here'}}\n"
    )
    docker("rm", "--force", containers(copy)["convex-backend"])
    assert "could not be copied" in fail(copy, 1, "snapshot", "one", saying=("standin/none:here", "--only pg"))
    succeed(copy, "snapshot", "one", "--only", "pg")  # the cure
    (copy / "docker-compose.mine.yml").write_text(
        "services: {convex-dashboard: !reset null, convex-backend: !reset null}\n"
    )
    told = run(copy, "snapshot", "two")  # what is no part of the stack is no part of its snapshots
    assert told.returncode == 0
    assert "Convex" not in told.stderr


def test_a_convex_in_a_volume_is_left_out_and_that_is_said(make: Make) -> None:
    copy = make(STACK_LAYERS="dev,volumes")
    succeed(copy, "up")
    told = run(copy, "snapshot", "one")
    assert told.returncode == 0
    assert "Convex keeps its state in Docker's volume " in told.stderr
    assert "the snapshot is of the database alone." in told.stderr
    assert "Convex" not in run(copy, "snapshot", "two", "--only", "pg").stderr
    assert run(copy, "restore", "one").returncode == 0
    succeed(copy, "reset-data", "--yes")


def test_a_convex_that_was_stopped_stays_so(both: Path) -> None:
    succeed(both, "snapshot", "one")
    both_raise(both)
    backend = containers(both)["convex-backend"]
    docker("stop", backend)
    told = run(both, "restore", "one")
    assert told.returncode == 0
    assert "convex_poc and Convex are as they were when the snapshot one was taken" in told.stderr
    assert docker("inspect", "--format", "{{.State.Status}}", backend) == "exited"
    assert run(both, "undo").returncode == 0
    assert run(both, "undo").returncode == 0
    succeed(both, "up")
    assert numbers(both) == (1, 1)


@pytest.mark.parametrize("command", ["up", "wait-healthy"])
def test_a_convex_that_was_paused_goes_on_with_all_that_depends_on_it(both: Path, command: str) -> None:
    docker("pause", containers(both)["convex-backend"])
    told = run(both, command)
    assert told.returncode == 0, told.stderr
    assert "convex-backend was paused, and can go on now." in told.stderr
    assert convex(both, raised=True) == 2
    assert run(both, "status").returncode == 0


def test_reset_data_says_what_goes_with_which(both: Path) -> None:
    succeed(both, "snapshot", "one")
    assert "what snapshots keep of it stays" in run(both, "reset-data", "--service", "convex", "--yes").stderr
    succeed(both, "up")
    assert convex(both) == 0
    succeed(both, "restore", "one")
    assert numbers(both) == (1, 1)
    told = run(both, "reset-data", "--service", "pg", "--yes").stderr
    assert "and its snapshots one" in told
    assert "with what they keep of Convex\n" in told
    assert halves(both) == []
    succeed(both, "up")
    assert convex(both) == 1


def test_a_snapshot_of_a_newer_backend_is_refused_and_one_of_an_older_is_named(both: Path) -> None:
    succeed(both, "snapshot", "new")
    later = "standin/test-later-backend:latest"
    file = f"FROM {STAND_INS['CONVEX_BACKEND_IMAGE']}\nLABEL later=yes\n"
    subprocess.run(["docker", "build", "-q", "-t", later, "-"], input=file.encode(), check=True, capture_output=True)
    try:
        succeed(both, "up", env={"CONVEX_BACKEND_IMAGE": later})
        both_raise(both)
        told = run(both, "restore", "new", env={"CONVEX_BACKEND_IMAGE": later})
        assert told.returncode == 0
        assert "taken with an older Convex backend" in told.stderr
        assert numbers(both) == (1, 1)
        succeed(both, "snapshot", "newer", env={"CONVEX_BACKEND_IMAGE": later})
        succeed(both, "up")
        both_raise(both)
        refused = fail(both, 2, "restore", "newer")
        assert f"taken with the Convex backend {later}, which is newer than the one here" in refused
        assert numbers(both) == (2, 2)
        succeed(both, "up", env={"CONVEX_BACKEND_IMAGE": later})  # the cure
        succeed(both, "restore", "newer", env={"CONVEX_BACKEND_IMAGE": later})
        assert numbers(both) == (1, 1)
        docker("tag", STAND_INS["CONVEX_BACKEND_IMAGE"], later)  # a tag that has moved back
        succeed(both, "up", env={"CONVEX_BACKEND_IMAGE": later})
        both_raise(both)
        moved = fail(both, 2, "restore", "newer", env={"CONVEX_BACKEND_IMAGE": later})
        assert "which is newer than the one here" in moved
        assert "invoke up --pull" in moved
    finally:
        run(both, "down")
        docker("image", "rm", "--force", later)


def test_admin_keys_that_no_longer_work_are_told(both: Path) -> None:
    succeed(both, "snapshot", "one")
    both_raise(both)
    assert "Admin keys" not in run(both, "restore", "one").stderr  # the secret is the same
    succeed(both, "reset-data", "--service", "convex", "--yes")
    succeed(both, "up")
    key = succeed(both, "admin-key").strip()
    assert "Admin keys that were made since then no longer work." in run(both, "restore", "one").stderr
    assert get(both, "CONVEX_PORT", "/api/check_admin_key", key)[0] >= 400
    assert get(both, "CONVEX_PORT", "/api/check_admin_key", succeed(both, "admin-key").strip())[0] == 200  # the cure


class Writer(threading.Thread):
    """A program that raises both numbers all the time, Convex's first, and tries again what was refused."""

    def __init__(self, copy: Path) -> None:
        super().__init__(daemon=True)
        self.copy, self.over, self.raised = copy, threading.Event(), 0

    def run(self) -> None:
        while not self.over.is_set():
            with suppress(psycopg.Error, OSError, HTTPException):
                number = convex(self.copy, raised=True)
                with login(self.copy) as session:
                    session.execute("UPDATE counter SET n = %s", [number])
                self.raised += 1


def test_both_are_of_one_moment_beside_a_program_that_writes_to_both(both: Path) -> None:
    agree_beside_a_writer(both, 4)
    succeed(both, "undo")
    ours, its = numbers(both)
    assert ours <= its <= ours + 1


def agree_beside_a_writer(both: Path, snapshots: int) -> None:
    """Take so many snapshots beside a program that writes to both; what each brings back is of one moment."""
    writer = Writer(both)
    writer.start()
    try:
        for number in range(snapshots):
            before = writer.raised
            eventually(lambda: writer.raised > before + 5)  # noqa: B023
            succeed(both, "snapshot", f"s{number}")
    finally:
        writer.over.set()
        writer.join(30)
    for number in range(snapshots):
        succeed(both, "restore", f"s{number}")
        ours, its = numbers(both)
        assert ours <= its <= ours + 1  # one step may be under way: Convex has it and the database was not told yet
        assert ours > 5 * number


def test_convex_goes_on_when_the_command_is_killed_while_it_stands_still(both: Path) -> None:
    ids = containers(both)
    session = login(both)
    pid = str(session.info.backend_pid)
    docker("exec", ids["postgres"], "sh", "-c", 'kill -STOP "$0"', pid)  # so that Convex stands still for seconds
    taking = subprocess.Popen([*INVOKE, "snapshot", "one"], cwd=both, stderr=subprocess.DEVNULL)
    stands = False
    while not stands and taking.poll() is None:
        states = docker("top", ids["convex-backend"], "-eo", "pid,stat").splitlines()
        stands = states[1].split()[1].startswith("T")
    taking.kill()
    taking.wait()
    docker("exec", ids["postgres"], "sh", "-c", 'kill -CONT "$0" || true', pid)
    session.close()
    assert stands
    assert convex(both, raised=True) == 2
    succeed(both, "snapshot", "one")
    both_raise(both)
    succeed(both, "restore", "one")
    assert convex(both) == 2


def test_docker_calls_convex_healthy_right_after_it_stood_still(both: Path) -> None:
    succeed(both, "snapshot", "one")
    assert docker("inspect", "--format", "{{.State.Health.Status}}", containers(both)["convex-backend"]) == "healthy"
    assert run(both, "status").returncode == 0
    succeed(both, "up")


def test_beneath_an_init_process_convex_is_stopped(make: Make) -> None:
    copy = make(STACK_LAYERS="dev,mine")
    layer(copy, init=True)
    succeed(copy, "up")
    sql(copy, "CREATE TABLE counter AS SELECT 0 AS n")
    both_raise(copy)
    told = run(copy, "snapshot", "one").stderr
    assert "which was stopped for " in told
    assert "(it cannot be frozen: an init process stands before it)" in told
    succeed(copy, "wait-healthy")
    both_raise(copy)
    succeed(copy, "restore", "one")
    assert numbers(copy) == (1, 1)


def test_where_docker_cannot_freeze_convex_is_stopped_and_that_is_said(both: Path, tmp_path: Path) -> None:
    # The first words are those of moby's daemon/kill.go; the reason after them is its runtime's.
    words = "Error response from daemon: cannot kill container: 1234: no signal here"
    real = shutil.which("docker")
    shim = tmp_path / "bin" / "docker"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\n[ "$1 $3" != "kill STOP" ] || {{ echo "{words}" >&2; exit 1; }}\nexec {real} "$@"\n')
    shim.chmod(0o755)
    told = run(both, "snapshot", "one", env={"PATH": f"{shim.parent}:{os.environ['PATH']}"})
    assert told.returncode == 0
    assert "which was stopped for " in told.stderr
    assert f"(it cannot be frozen: {words})" in told.stderr
    succeed(both, "wait-healthy")
    both_raise(both)
    succeed(both, "restore", "one")
    assert numbers(both) == (1, 1)


@pytest.mark.parametrize("command", [("drop-snapshot", "one", "--yes"), ("fork", "--from", "one"), ("snapshot", "two")])
def test_whatever_comes_next_finishes_the_pair_first(both: Path, command: tuple[str, ...]) -> None:
    succeed(both, "snapshot", "one")
    both_raise(both)
    eventually(lambda: halves(both, "spare"))
    succeed(both, "restore", "one")
    # As a kill between the two leaves it: the database has been exchanged, and Convex has not.
    (old,) = halves(both, "undo")
    (stored,) = halves(both, "snapshot")
    docker("stop", containers(both)["convex-backend"])
    spare = stored.with_name(stored.name.replace("-snapshot-", "-spare-"))
    if spare.exists():
        shutil.rmtree(spare)
    (both / "data" / "convex").rename(spare)
    old.rename(both / "data" / "convex")
    identifier, digits, undo = stored.name.split("-")[1], stored.name.split("-")[-1], old.name.split("-")[-1]
    (oid,) = sql(both, "SELECT oid FROM pg_database WHERE datname = 'convex_poc'")
    (both / "data" / f".restoring-{identifier}-{oid}-spare-{digits}-undo-{undo}").mkdir()
    assert run(both, *command).returncode == 0
    succeed(both, "up")
    assert numbers(both) == (1, 1)


def test_a_pair_stays_a_pair_whenever_it_is_killed(both: Path) -> None:
    kill_at_random(both, KILLS, random.Random(17))  # noqa: S311


def kill_at_random(both: Path, kills: int, chance: random.Random) -> None:
    """Kill restores and snapshots at random moments; what the next command leaves is a pair of one of the snapshots."""
    succeed(both, "snapshot", "s1")
    for number in (2, 3):
        both_raise(both)
        succeed(both, "snapshot", f"s{number}")
    took = 3.0
    for turn in range(kills):
        words = ["restore", f"s{chance.choice((1, 2, 3))}"]
        words = chance.choice((words, words, ["undo"], ["snapshot", f"t{turn}"]))
        begun = time.monotonic()
        command = subprocess.Popen(
            [*INVOKE, *words], cwd=both, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        server = chance.random() < 0.2
        try:
            command.wait(chance.uniform(0.2, took))
            took = 0.7 * took + 0.3 * max(1.0, time.monotonic() - begun)
        except subprocess.TimeoutExpired:
            if server:
                docker("kill", "--signal", "KILL", containers(both)["postgres"])
            with suppress(ProcessLookupError):
                command.send_signal(chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGINT)))
            command.wait(60)
        succeed(both, "up")
        ours, its = numbers(both)
        assert ours == its, (turn, words, server)
        assert not list((both / "data").glob(".restoring-*"))
    for number in (1, 2, 3):
        succeed(both, "restore", f"s{number}")
        assert numbers(both) == (number, number)
