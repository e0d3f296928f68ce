"""What the smoke tests say of a stack that cannot be tested: what is the matter, in one line, with what to type."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.integration.checkout import containers, docker, environment, succeed, value


def smoke(copy: Path, **env: str) -> str:
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/smoke"]
    result = subprocess.run(argv, check=False, capture_output=True, text=True, cwd=copy, env=environment(**env))
    assert result.returncode == 1
    return next(line for line in (result.stdout + result.stderr).splitlines() if line.startswith("Exit: "))


def test_only_a_stack_that_does_not_run_is_called_so(either: Path) -> None:
    assert "No stack runs here" in (said := smoke(either))
    assert "`invoke up`" in said
    succeed(either, "up")
    said = smoke(either, POSTGRES_PASSWORD="wrong")
    assert "password authentication failed" in said
    assert "runs and cannot be tested" in said
    assert "`invoke doctor`" in said


def test_one_that_is_stopped_for_a_while_is_said_not_to_answer(either: Path) -> None:
    succeed(either, "up")
    if value(either, "STACK_ENGINE") == "docker":
        docker("pause", containers(either)["postgres"])
        said = smoke(either)
        docker("unpause", containers(either)["postgres"])
    else:
        pid = int((either / "data" / "embedded" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGSTOP)
        said = smoke(either)
        os.kill(pid, signal.SIGCONT)
    assert "timeout expired" in said
    assert "runs and cannot be tested" in said
