"""A program that is there and cannot be started is named, with the machine's reason."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stack.engines.embedded.engine import Embedded
from stack.ground import run
from stack.ground.errors import StackError
from stack.ground.run import Command
from stack.verbs import dump, load, up

STARTS: list[Callable[[list[str]], object]] = [run.look, run.do, run.relay, run.become]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("why", ["Permission denied", "Exec format error", "Argument list too long"])
def test_a_program_that_cannot_be_started_is_named(
    tmp_path: Path, start: Callable[[list[str]], object], why: str
) -> None:
    program = tmp_path / "docker"
    program.write_bytes(b"\x7fELF of another machine")
    program.chmod(0o644 if why.startswith("Perm") else 0o755)
    argv = [str(program), *["x" * 200_000] * why.startswith("Arg")]
    call = f"run.{start.__name__}({argv[:1]!r} + {len(argv) - 1} * ['x' * 200_000])"
    code = f"from stack.ground import run; {call}"
    said = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert f"StackError: `{program}` could not be started: {why}" in said.stderr.replace("\n", " ")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_folder_of_path_that_may_not_be_searched_hides_nothing(tmp_path: Path) -> None:
    """As those of Windows in WSL2, or root's after `su`."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o700)
    code = "from stack.ground import run; run.look(['no-such-program'])"
    other = ["setpriv", "--reuid=4321", "--regid=4321", "--clear-groups", sys.executable, "-c", code]
    env = {**os.environ, "PATH": f"{locked}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"}
    said = subprocess.run(other, check=False, capture_output=True, text=True, env=env)
    assert "`no-such-program` was not found on PATH. Install it" in said.stderr


@pytest.mark.parametrize("verb", ["dump", "load", "seed"])
def test_a_client_that_cannot_be_started_is_not_a_file_that_cannot_be_written(
    engine: Embedded, tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    up.bring_up(engine, 30, pull=False, wait=True)
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF of another machine")
    broken.chmod(0o755)
    real = engine.client

    def client(*argv: str, **options: object) -> Command:
        command = real(*argv, **options)  # type: ignore[arg-type]
        begins = verb == "dump" or "-f" in argv
        return Command([str(broken), *command.argv[1:]], command.env) if begins else command

    monkeypatch.setattr(engine, "client", client)
    (tmp_path / "seed").mkdir()
    (tmp_path / "seed" / "1.sql").write_text("SELECT 1;")
    verbs: dict[str, Callable[[], object]] = {
        "dump": lambda: dump.dump(engine, str(tmp_path / "out.dump")),
        "load": lambda: load.load(engine, str(tmp_path / "seed" / "1.sql"), clean=False, yes=True),
        "seed": lambda: load.seed(engine),
    }
    with pytest.raises(StackError, match=r"broken` could not be started: Exec format error") as refused:
        verbs[verb]()
    assert "cannot be written" not in str(refused.value)
    assert not (tmp_path / "out.dump").exists()
