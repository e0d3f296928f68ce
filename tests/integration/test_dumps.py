"""Dumps through the shell: pipes, readers that leave, Ctrl-C; and who is waited for, on each engine."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.checkout import INVOKE, environment, eventually, login, run, sql, succeed, tables, value
from tests.integration.test_interrupts import begin, ended, finish


@pytest.fixture
def filled(either: Path) -> Path:
    """A copy whose database holds more than any pipe."""
    succeed(either, "up")
    sql(either, "CREATE TABLE kept AS SELECT sha512(n::text::bytea) AS h FROM generate_series(1, 200000) AS n")
    return either


def sessions(copy: Path) -> list[str]:
    return sql(copy, "SELECT query FROM pg_stat_activity WHERE application_name LIKE 'invoke-%'")


def shell(copy: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Type a line in which `invoke` stands for this checkout's."""
    line = f'invoke() {{ {shlex.join(INVOKE)} "$@"; }}; set -o pipefail; {line}'
    done = subprocess.run(
        ["bash", "-c", line], check=False, cwd=copy, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@contextmanager
def locked(copy: Path, statement: str = "LOCK TABLE kept") -> Iterator[psycopg.Connection[Any]]:
    """Somebody who keeps the others waiting."""
    with login(copy, application_name="a migration") as session:
        session.execute("BEGIN")
        session.execute(statement.encode())
        yield session


def test_dumps_through_the_shell_come_back(filled: Path) -> None:
    (filled / "x").mkdir()
    for line in ("invoke dump - > x/1", "invoke dump - | cat > x/2", "invoke dump /dev/stdout > x/3",
                 "invoke dump >(cat > x/4); sleep 1", "mkfifo p; cat p > x/5 & invoke dump p; wait",
                 "touch x/6; ln -s x/6 l; invoke dump l; test -L l", "invoke dump x/7 2>&-",
                 "invoke dump x/8 <&- >&- 2>&-"):  # fmt: skip
        done = shell(filled, line)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        assert done.stdout == ""
    for name in "12345678":
        sql(filled, "DROP TABLE kept")
        succeed(filled, "load", f"x/{name}")
        assert sql(filled, "SELECT count(*) FROM kept") == [200_000]
    assert (filled / "p").is_fifo()


def test_a_dump_whose_reader_leaves_says_so_and_ends_its_session(filled: Path) -> None:
    for line in ("invoke dump - | head -c 10 >/dev/null", "mkfifo p; head -c 10 p > /dev/null & invoke dump p"):
        done = shell(filled, line)
        assert done.returncode == 1
        assert "Nobody reads on, and what was read is no whole dump." in done.stderr
        assert sessions(filled) == []
    assert shell(filled, "invoke dump - >&-").returncode == 1
    for line in ("invoke dump - > /dev/full", "invoke dump /dev/full"):
        done = shell(filled, line)
        assert done.returncode == 1
        assert "no space left on device" in done.stderr.lower()


@pytest.mark.parametrize("file", ["-", "x.dump", "nobody reads"])
def test_ctrl_c_ends_a_dump_that_waits_and_its_session(filled: Path, file: str) -> None:
    os.mkfifo(filled / "nobody reads")
    with locked(filled):
        child = begin(filled, "dump", file)
        with ended(child):
            if file == "nobody reads":
                assert child.stderr
                assert child.stderr.readline() == "Waiting for somebody to read nobody reads.\n"
            else:
                eventually(lambda: sessions(filled))
            os.killpg(child.pid, signal.SIGINT)
            assert "Interrupted" in finish(child, timeout=10)
        assert child.returncode == 130
        eventually(lambda: not sessions(filled), timeout=5)
    assert not [path for path in filled.iterdir() if path.name.startswith((".new-", ".dump-", "x.dump"))]


def test_whoever_waits_says_for_whom_after_two_seconds(filled: Path) -> None:
    says_for_whom(filled, ("dump", "x.dump"), "LOCK TABLE kept")


@pytest.mark.parametrize("command", [("load", "new.sql", "--clean", "--yes"), ("seed",)], ids=lambda words: words[0])
def test_whoever_is_in_what_is_replaced_is_named_and_ended(filled: Path, command: tuple[str, ...]) -> None:
    (filled / "new.sql").write_text("CREATE TABLE new ();")
    (filled / "seed/010.sql").write_text("ALTER TABLE kept ADD more int;")
    with locked(filled, "LOCK TABLE kept") as session:
        done = run(filled, *command)
        assert done.returncode == 0, done.stderr
        assert "Ending 1 session on convex_poc: a migration." in done.stderr
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    assert tables(filled) == (["new"] if command[0] == "load" else ["kept"])


def says_for_whom(copy: Path, command: tuple[str, ...], statement: str) -> None:
    with locked(copy, statement) as session:
        begun = time.monotonic()
        child = begin(copy, *command)
        with ended(child):
            assert child.stderr
            while "Waiting" not in (said := child.stderr.readline()):
                assert said
            assert 2 < time.monotonic() - begun < 20
            assert f"pid {session.info.backend_pid} (a migration" in said
            assert "idle in transaction for " in said
            assert statement in said
            cure = re.search("`invoke (psql .*?)`", said)
            assert cure
            succeed(copy, *shlex.split(cure[1]))
            rest = finish(child)
        assert child.returncode == 0, rest
        assert "Waiting" not in rest
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")


def test_the_external_engine_says_for_whom_too(filled: Path) -> None:
    parts = [value(filled, f"POSTGRES_{name}") for name in ("USER", "PASSWORD", "PORT", "DB")]
    url = "postgresql://{}:{}@127.0.0.1:{}/{}".format(*parts)
    with (filled / ".env").open("a") as file:
        file.write(f"STACK_ENGINE=external\nDATABASE_URL='{url}'\n")
    try:
        says_for_whom(filled, ("dump", "x.dump"), "LOCK TABLE kept")
    finally:
        text = (filled / ".env").read_text()
        (filled / ".env").write_text(text.replace("STACK_ENGINE=external\n", ""))
