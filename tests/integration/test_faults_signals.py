"""Commands that are interrupted at any moment, and two at the same time: old or new, never half, and it goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from tests.integration.checkout import eventually, sql, succeed, tables, value
from tests.integration.test_interrupts import begin, ended, finish

ROUNDS = 4
START = 0.2
"""Seconds that Python and invoke take before a command begins."""


def moments(seconds: float) -> Iterator[tuple[float, Callable[[int, int], None], int, int]]:
    """Yield when to send a signal (in seconds), how, which, and the exit code that it asks for.

    The moments lie evenly between the beginning and the end of a command that takes `seconds`.
    """
    for number in range(ROUNDS):
        when = max(0.0, seconds - START) * number / (ROUNDS - 1)
        # Ctrl-C goes to all that the terminal runs, TERM to invoke alone.
        yield (when, os.killpg, signal.SIGINT, 130) if number % 2 else (when, os.kill, signal.SIGTERM, 143)


def interrupted(copy: Path, *args: str, seconds: float) -> Iterator[str]:
    """Run a command and interrupt it, again and again, each time at another moment; yield what it said."""
    for when, send, number, code in moments(seconds):
        child = begin(copy, *args)
        with ended(child):
            eventually(lambda child=child: listens(child))  # type: ignore[misc]
            with suppress(subprocess.TimeoutExpired):
                child.wait(when)
            if child.poll() is None:
                send(child.pid, number)
            said = finish(child)
        # Python gives the signals back just before it ends: then the signal itself ends it.
        assert child.returncode in (0, code, -number), f"after {when:.2f} s: {child.returncode}\n{said}"
        assert child.returncode != code or "Interrupted" in said
        yield said


def listens(child: subprocess.Popen[str]) -> bool:
    """Return whether a command has come so far that a signal is its own business; fails when it ends before."""
    assert child.poll() is None
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{child.pid}/status").read_text(), re.MULTILINE)
    return bool(caught and int(caught[1], 16) & 1 << signal.SIGTERM - 1)


def seconds_of(copy: Path, *args: str) -> float:
    begun = time.monotonic()
    succeed(copy, *args)
    return time.monotonic() - begun


def test_up_is_interrupted_at_any_moment(either: Path) -> None:
    usual = seconds_of(either, "up") / 2  # there is no cluster to make the next time
    sql(either, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    succeed(either, "down")
    for _ in interrupted(either, "up", seconds=usual):
        succeed(either, "down")
    succeed(either, "up")
    assert sql(either, "SELECT count(*) FROM kept") == [1000]


def test_reset_data_is_interrupted_at_any_moment(either: Path) -> None:
    succeed(either, "up")
    usual = 2 * seconds_of(either, "reset-data", "--dry-run")
    sql(either, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    outcomes = set()
    for _ in interrupted(either, "reset-data", "--yes", seconds=usual):
        succeed(either, "up")
        found = tables(either)
        outcomes.add(tuple(found))
        assert not list((either / "data").glob(".wiped-*"))  # what lay aside is gone
        if found:
            assert sql(either, "SELECT count(*) FROM kept") == [1000]
        else:
            sql(either, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    assert outcomes <= {("kept",), ()}


def test_load_is_interrupted_at_any_moment(either: Path, tmp_path: Path) -> None:
    succeed(either, "up")
    files = []
    for name in ("one", "two"):
        file = tmp_path / f"{name}.sql"
        rows = "".join(f"{n}\n" for n in range(200_000))
        file.write_text(f"CREATE TABLE {name} (n int);\nCOPY {name} FROM STDIN;\n{rows}\\.\n")
        files.append(str(file))
    load = ("load", files[0], "--clean", "--yes")
    succeed(either, *load)
    usual = seconds_of(either, *load)
    succeed(either, "load", files[1], "--clean", "--yes")
    for _ in interrupted(either, *load, seconds=usual):
        # A server that lost its client on the way is done with it in a moment.
        eventually(lambda: not sql(either, "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'invoke-%'"))
        found = tables(either)
        assert found in (["one"], ["two"])
        assert sql(either, f"SELECT count(*) FROM {found[0]}") == [200_000]
    succeed(either, *load)
    assert tables(either) == ["one"]


def test_a_wipe_and_another_command_at_once_take_turns(either: Path) -> None:
    other = ("up",) if value(either, "STACK_ENGINE") == "docker" else ("reset-data", "--yes")
    succeed(either, "up")
    sql(either, "CREATE TABLE kept ()")
    lock = FileLock(either / "data/.lock")
    with lock:
        children = [begin(either, "reset-data", "--yes"), begin(either, *other)]
        with ended(*children):
            for child in children:
                assert child.stderr
                assert "Another command is at work" in child.stderr.readline()
            assert tables(either) == ["kept"]  # neither has begun
            lock.release()
            said = [finish(child) for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    succeed(either, "up")
    assert tables(either) == []
