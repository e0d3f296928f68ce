"""The same scenarios on every engine that runs a database here: in a container, and as a process without Docker."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from tests.integration import checkout
from tests.integration.checkout import SHOP, containers, docker, environment, fail, login, run, sql, succeed, tables
from tests.integration.conftest import copy_for

WRITERS = 32
NO_DOCKER = {"DOCKER_HOST": "unix:///nonexistent"}


@pytest.fixture(params=["docker", "embedded"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def copy(engine: str, template: Path, tmp_path: Path) -> Iterator[Path]:
    with copy_for(engine, template, tmp_path / checkout.unique(), anew=True) as made:
        yield made
        run(made, "down")


@pytest.fixture
def started(copy: Path) -> Path:
    succeed(copy, "up")
    return copy


def kill(copy: Path, engine: str, victim: str) -> None:
    """Kill one session, the postmaster, or the server and all its sessions as a power cut would."""
    if victim == "everything" and engine == "docker":
        docker("kill", "--signal", "KILL", containers(copy)["postgres"])
        return
    if victim == "a session":
        pids = sql(copy, "SELECT pid FROM pg_stat_activity WHERE query LIKE 'INSERT%' LIMIT 1")
    elif engine == "docker":
        pids = [
            int(docker("exec", containers(copy)["postgres"], "head", "-1", "/var/lib/postgresql/data/postmaster.pid"))
        ]
    else:
        pids = [int((copy / "data" / "embedded" / "postmaster.pid").read_text().split()[0])]
    if victim == "everything":
        pids += map(int, Path(f"/proc/{pids[0]}/task/{pids[0]}/children").read_text().split())
    assert pids
    for pid in pids:
        if engine == "docker":
            docker("exec", containers(copy)["postgres"], "sh", "-c", f"kill -KILL {pid}")
        else:
            with suppress(ProcessLookupError):  # a session may just have ended
                os.kill(pid, signal.SIGKILL)


def smoke(copy: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/smoke"]
    return subprocess.run(argv, check=False, capture_output=True, text=True, cwd=copy, env=environment())


def test_the_whole_life(copy: Path) -> None:
    checkout.configure(copy, STACK_LAYERS="dev")  # Convex too, where there is one
    assert run(copy, "status").returncode == 3
    assert "invoke up" in (smoke(copy).stdout + smoke(copy).stderr)
    succeed(copy, "up")
    sql(copy, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (42)")
    before = smoke(copy)
    assert before.returncode == 0, before.stdout
    assert tables(copy) == ["kept"]  # the smoke tests left nothing
    succeed(copy, "restart")
    assert run(copy, "status").returncode == 0
    succeed(copy, "down")
    assert run(copy, "status").returncode == 3
    succeed(copy, "up")
    assert sql(copy, "SELECT n FROM kept") == [42]
    succeed(copy, "reset", "--yes")
    assert tables(copy) == []
    assert smoke(copy).returncode == 0
    succeed(copy, "reset-data", "--yes")
    assert {path.name for path in (copy / "data").iterdir()} <= {".gitkeep", ".lock", "convex", "pg"}
    assert not any((copy / "data" / name / "PG_VERSION").exists() for name in ("pg", "embedded"))


def test_psql_has_its_streams_and_its_exit_code(started: Path) -> None:
    assert "42" in succeed(started, "psql", "-c", "SELECT 42")
    assert "43" in succeed(started, "psql", stdin="SELECT 43;")
    asked = ("CREATE TABLE t (n int)", "COPY t FROM STDIN", "SELECT sum(n) FROM t")
    assert "15" in succeed(started, "psql", *(word for each in asked for word in ("-c", each)), stdin="7\n8\n")
    (started / "a file.sql").write_text("SELECT 44;")
    assert "44" in succeed(started, "psql", "-f", "a file.sql")
    assert run(started, "psql", "-c", "SELECT 1/0").returncode == 1
    broken = run(started, "psql", stdin="SELECT 1/0;\nSELECT 'not reached';")
    assert broken.returncode == 3
    assert "not reached" not in broken.stdout


def test_the_settings_for_others_lead_to_the_database(started: Path) -> None:
    url = next(line for line in succeed(started, "env").splitlines() if line.startswith("DATABASE_URL="))
    with psycopg.connect(url.partition("=")[2].strip("'")) as connection:
        assert connection.info.server_version // 10000 == 17


def test_reset_data_without_consent_touches_nothing(started: Path) -> None:
    sql(started, "CREATE TABLE kept ()")
    fail(started, 2, "reset-data", saying=("--yes",))
    assert "kept" in tables(started)
    result = run(started, "reset-data", "--dry-run")
    assert result.returncode == 0
    assert "MB" in result.stderr
    assert tables(started) == ["kept"]


def test_a_file_that_fails_is_not_seeded_by_half(started: Path) -> None:
    (started / "seed" / "1.sql").write_text("CREATE TABLE one ();")
    (started / "seed" / "2.sql").write_text("CREATE TABLE two ();\nSELECT 1/0;")
    fail(started, 1, "seed", saying=("seed/2.sql", "division by zero", ":2:"))
    assert tables(started) == []


def test_no_acknowledged_row_is_lost_when_the_server_is_killed(started: Path, engine: str) -> None:
    sql(started, "CREATE TABLE written (writer int, n int)")
    acknowledged: list[tuple[int, int]] = []
    for victim in ("a session", "the postmaster", "everything"):
        before = len(acknowledged)
        write_until_the_end(started, acknowledged, lambda victim=victim: kill(started, engine, victim))  # type: ignore[misc]
        succeed(started, "wait-healthy" if victim == "a session" else "up")  # after that the server is there by itself
        with login(started) as connection:
            found = set(connection.execute("SELECT writer, n FROM written").fetchall())
        assert len(acknowledged) > before + 2000
        assert not set(acknowledged) - found


def write_until_the_end(copy: Path, acknowledged: list[tuple[int, int]], end: Callable[[], None]) -> None:
    """Write from many clients at once, note each row that the server has promised to keep, and end it all."""
    begun = len(acknowledged)
    enough = threading.Event()

    def write(writer: int) -> None:
        try:
            with login(copy) as connection:
                for n in range(begun, 100_000):
                    connection.execute("INSERT INTO written VALUES (%s, %s)", (writer, n))
                    acknowledged.append((writer, n))
                    if len(acknowledged) > begun + 2000:
                        enough.set()
        except psycopg.OperationalError:
            pass  # the server is gone, as intended

    writers = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in writers:
        thread.start()
    assert enough.wait(60)
    end()
    for thread in writers:
        thread.join(30)
    assert not any(thread.is_alive() for thread in writers)  # the death of one session ends all


def checksum(copy: Path) -> str:
    return succeed(copy, "psql", "-f", str(SHOP / "checksum.sql"))


def test_a_database_moves_from_engine_to_engine(template: Path, tmp_path: Path) -> None:
    with (
        copy_for("embedded", template, tmp_path / checkout.unique()) as first,
        copy_for("docker", template, tmp_path / checkout.unique()) as second,
    ):
        try:
            succeed(first, "up")
            for file in ("010_schema.sql", "020_rows.sql"):
                shutil.copy(SHOP / file, first / "seed")
            succeed(first, "seed")
            rows = checksum(first)
            assert len([line for line in rows.splitlines() if "|" in line]) >= 24
            moving, back = str(tmp_path / "moving.dump"), str(tmp_path / "back.dump")
            succeed(first, "dump", moving)
            succeed(second, "up")
            succeed(second, "load", moving)
            assert checksum(second) == rows
            fail(second, 2, "load", moving, saying=("not empty", "--clean"))
            succeed(second, "dump", back)
            succeed(first, "load", back, "--clean", "--yes")
            assert checksum(first) == rows
        finally:
            run(first, "down")
            run(second, "down")


def test_a_dump_that_ends_early_changes_nothing(started: Path, tmp_path: Path) -> None:
    sql(started, "CREATE TABLE kept AS SELECT generate_series(1, 100000) AS n")
    whole, part = tmp_path / "whole.dump", tmp_path / "part.dump"
    succeed(started, "dump", str(whole))
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    fail(started, 1, "load", str(part), "--clean", "--yes", saying=("as it was",))
    fail(started, 1, "load", "-", "--clean", "--yes", stdin="this is no dump", saying=("as it was",))
    assert sql(started, "SELECT count(*) FROM kept") == [100000]


def test_data_in_containers_without_docker_is_an_error(template: Path, tmp_path: Path) -> None:
    with copy_for("docker", template, tmp_path / checkout.unique()) as made:
        checkout.configure(made, STACK_ENGINE="auto")
        succeed(made, "up")
        succeed(made, "down")
        fail(made, 1, "up", saying=("Docker does not answer",), env=NO_DOCKER)
        assert not (made / "data" / "embedded").exists()


def test_without_docker_and_without_data_the_database_runs_all_the_same(template: Path, tmp_path: Path) -> None:
    with copy_for("embedded", template, tmp_path / checkout.unique(), anew=True) as made:
        checkout.configure(made, STACK_ENGINE="auto")
        result = run(made, "up", env=NO_DOCKER)
        try:
            assert result.returncode == 0, result.stderr
            assert "there is no Convex" in result.stderr
            assert tables(made) == []
            assert "embedded" in succeed(made, "status", "--json")  # Docker answers again; the data is elsewhere
            fail(made, 2, "admin-key", saying=("Docker",))
        finally:
            run(made, "down")
