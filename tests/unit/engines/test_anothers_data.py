"""Data of another user's: what is advised breaks no server that is at work on it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from stack.engines.embedded.engine import Embedded
from stack.server import processes
from stack.verbs import up
from tests.unit.conftest import embedded
from tests.unit.engines.test_rights import INVOKE, variables

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a server as another user"),
]
ME = ("setpriv", "--reuid=4321", "--regid=4321", "--clear-groups")


@pytest.fixture
def copy(programs: Path) -> Iterator[Path]:
    """A checkout of one user's with a cluster of another's in it."""
    made = Path(tempfile.mkdtemp(prefix="stack-anothers-"))
    made.chmod(0o755)
    here = Path(__file__).resolve().parents[3]
    shutil.copytree(here / "stack", made / "stack", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(here / "tasks.py", made)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def engine(programs: Path, copy: Path) -> Iterator[Embedded]:
    with embedded(programs, copy) as made:
        made.home.directory.mkdir()
        os.chown(made.home.directory, 65534, 65534)
        lines = {"STACK_ENGINE": "embedded", "POSTGRES_PORT": made.settings.ports["POSTGRES_PORT"],
                 "POSTGRES_BIN_DIR": f"'{programs}'"}  # fmt: skip
        (copy / ".env").write_text("".join(f"{name}={text}\n" for name, text in lines.items()))
        up.bring_up(made, 30, pull=False, wait=True)
        for place in (copy, copy / "data", copy / ".env"):
            os.chown(place, 4321, 4321)
        yield made


def invoke(copy: Path, *args: str) -> subprocess.CompletedProcess[str]:
    argv = [*ME, *INVOKE, *args]
    return subprocess.run(argv, check=False, capture_output=True, text=True, cwd=copy, env=variables(), timeout=60)


def typed(said: str) -> list[str]:
    """Return the commands that a message says to type, as root types them, for USER 4321."""
    words = " ".join(said.split()).split("`")[1::2]
    return [each.removeprefix("sudo ").replace("$USER", "4321") for each in words if each.startswith("sudo ")]


def test_a_server_that_runs_is_named_and_stopped_before_anything_changes_hands(engine: Embedded, copy: Path) -> None:
    pid = str(engine.postmaster.running().pid)
    with psycopg.connect(engine.endpoint().url(masked=False), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
    for command in (("up",), ("logs",), ("doctor",)):
        said = invoke(copy, *command)
        assert said.returncode in (1, 2)
        words = said.stdout + said.stderr
        assert f"process {pid}" in words
        words = " ".join(words.split())
        assert words.index(f"kill -INT {pid}") < words.index("chown -R")
    for words in typed(invoke(copy, "up").stderr):
        subprocess.run(["sh", "-c", words], check=True)
        while engine.postmaster.process() and "kill" in words:
            time.sleep(0.05)
    again = invoke(copy, "up")
    assert again.returncode == 0, again.stderr
    asked = invoke(copy, "psql", "-c", "SELECT n FROM kept")
    assert "42" in asked.stdout, asked.stderr
    assert invoke(copy, "down").returncode == 0


def test_where_none_is_seen_it_is_said_how_to_see_it(engine: Embedded, copy: Path) -> None:
    engine.stop()
    # Another test's initdb, which does not tell where it works, is over in a moment.
    deadline = time.monotonic() + 60
    while len(steps := typed(invoke(copy, "up").stderr)) != 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    look, take = steps
    assert "postmaster.pid" in look
    assert subprocess.run(["sh", "-c", look], check=False, capture_output=True).returncode
    subprocess.run(["sh", "-c", take], check=True)
    assert invoke(copy, "up").returncode == 0
    assert invoke(copy, "down").returncode == 0


def test_one_that_does_not_tell_where_it_works_is_a_possibility(engine: Embedded, copy: Path) -> None:
    engine.stop()
    place = copy / "bin"
    place.mkdir()
    shutil.copy("/bin/sleep", place / "postgres")
    with subprocess.Popen([place / "postgres", "60"], cwd=engine.home.directory, user=65534, group=65534) as other:
        try:
            asked = "print(*processes.closed(pathlib.Path(sys.argv[1])))"
            code = f"import sys, pathlib; from stack.server import processes; {asked}"
            argv = [*ME, INVOKE[0], "-c", code, str(engine.home.directory)]
            said = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=copy, env=variables()).stdout
            assert re.search(rf"process [\d, ]*\b{other.pid}\b", said)  # other tests' servers may be nobody's too
            assert "may be" in said
            look = typed(said)[0]
            shown = subprocess.run(["sh", "-c", look], check=True, capture_output=True, text=True).stdout
            assert str(engine.home.directory) in shown
        finally:
            other.kill()
    assert processes.closed(engine.home.directory)
