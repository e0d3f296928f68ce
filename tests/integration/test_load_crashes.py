"""`load`, `seed` and `undo` killed at any moment on Docker, and the server's container with them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import crashes
from tests.integration.checkout import INVOKE, environment, sql, succeed
from tests.integration.test_engines import kill
from tests.integration.test_snapshots import content

CRASHES = int(os.environ.get("STACK_LOAD_CRASHES", "10"))
"""STACK_LOAD_CRASHES=200 is what a release is tried with; more are in the unit tests, where no container is waited for.
"""
CLEAR = "from stack.engines import choose; from stack.verbs import spares; spares.clear(choose.choose())"
TYPED = {
    "load": ["load", "x.sql", "--clean", "--yes"],
    "archive": ["load", "x.dump", "--clean", "--yes"],
    "seed": ["seed"],
    "undo": ["undo"],
}


@pytest.mark.slow
@pytest.mark.alone
def test_crashes_leave_the_old_or_the_new(started: Path) -> None:
    chance = random.Random(12)  # noqa: S311 - the same moments each time
    crashes.fill(lambda statement: sql(started, statement), crashes.ROWS)
    succeed(started, "dump", "x.dump")
    ends = crashes.old_or_new(
        CRASHES,
        chance,
        content=lambda: content(started),
        crash=lambda what, now: crash(started, chance, what, now),
        tidy=lambda: subprocess.run([sys.executable, "-c", CLEAR], check=True, cwd=started, env=environment()),
        ask=lambda statement: sql(started, statement),
    )
    print(dict(ends))


def crash(copy: Path, chance: random.Random, what: str, now: int) -> bool:
    """Type a command and kill it, the server or both at a random moment; return False when it was done before."""
    for file in ("x.sql", "seed/x.sql"):
        (copy / file).write_text(crashes.anew(now))
    victim, delay = chance.choice(["command", "server", "both"]), chance.uniform(0.1, 0.7 if what == "undo" else 2)
    child = subprocess.Popen([*INVOKE, *TYPED[what]], cwd=copy, env=environment(), start_new_session=True,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
    with child:
        time.sleep(delay)
        if victim in ("command", "both"):
            os.killpg(child.pid, signal.SIGKILL)
        if victim in ("server", "both"):
            kill(copy, "docker", "everything")
        _, said = child.communicate(timeout=60)
    print(what, victim, f"{delay:.2f}", child.returncode)
    assert "Traceback" not in said
    if victim in ("server", "both"):
        succeed(copy, "up")
    return child.returncode != 0
