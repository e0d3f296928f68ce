"""Ending a server whose clean stop fails: whatever it takes, said aloud, and with every row that it acknowledged."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from stack.engines.embedded import shutdown
from stack.engines.embedded.engine import Embedded
from stack.ground.errors import Interrupted, StackError
from stack.verbs import up as up_room
from stack.verbs import wait

pytestmark = pytest.mark.slow
ROWS = 10_000


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stack.engines.embedded.engine.STOP_PATIENCE", 2.0)


@pytest.fixture
def full(engine: Embedded) -> Iterator[Embedded]:
    """A server with rows that it has acknowledged."""
    up(engine)
    sql(engine, f"CREATE TABLE kept AS SELECT generate_series(1, {ROWS}) AS n")
    yield engine
    for process in of(engine):  # whatever a test that failed has left
        with contextlib.suppress(psutil.Error):
            process.kill()


def up(engine: Embedded) -> None:
    up_room.bring_up(engine, 30, pull=False, wait=True)


def sql(engine: Embedded, query: str) -> list[object]:
    with psycopg.connect(engine.endpoint().url(masked=False), autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return [row[0] for row in cursor] if cursor.description else []


def server(engine: Embedded) -> psutil.Process:
    return psutil.Process(engine.postmaster.running().pid)


def of(engine: Embedded) -> list[psutil.Process]:
    """Return the living processes of the engine's server, by their working directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            here = process.cwd().startswith(str(engine.root / "data"))
            found += [process] * (here and process.status() != psutil.STATUS_ZOMBIE)
    return found


def child(engine: Embedded, title: str) -> psutil.Process:
    return next(each for each in server(engine).children() if title in " ".join(each.cmdline()))


def ends(engine: Embedded, within: float = 20) -> None:
    begun = time.monotonic()
    engine.stop()
    assert time.monotonic() - begun < within
    assert of(engine) == []
    assert engine.services()[0].state == "not started"


def loses_nothing(engine: Embedded) -> None:
    up(engine)
    assert sql(engine, "SELECT count(*) FROM kept") == [ROWS]
    assert sql(engine, "SELECT sum(n) FROM kept") == [ROWS * (ROWS + 1) // 2]


@contextlib.contextmanager
def session(engine: Embedded) -> Iterator[psutil.Process]:
    """A session, as a process."""
    connection = psycopg.connect(engine.endpoint().url(masked=False), autocommit=True)
    try:
        yield psutil.Process(connection.info.backend_pid)
    finally:
        with contextlib.suppress(psycopg.Error):
            connection.close()


Said = pytest.CaptureFixture[str]


def test_a_clean_stop_says_no_more_than_that(full: Embedded, capfd: Said) -> None:
    assert shutdown._is_to_recover(full.home.directory)  # as long as it runs
    capfd.readouterr()
    ends(full)
    assert not shutdown._is_to_recover(full.home.directory)
    assert capfd.readouterr().err == "PostgreSQL has stopped.\n"
    assert "not properly shut down" not in full.last_words("postgres", 50)
    loses_nothing(full)


def test_a_session_that_does_not_react_is_not_waited_for_for_ever(full: Embedded, capfd: Said) -> None:
    with session(full) as stuck:
        stuck.suspend()
        ends(full)
    said = capfd.readouterr().err
    assert "has not stopped within 2 s" in said
    assert "immediate stop" in said
    assert "Nothing that was committed is lost" in said
    loses_nothing(full)


def test_a_server_that_itself_does_not_react_is_killed_with_its_sessions(
    full: Embedded, capfd: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stack.engines.embedded.shutdown.AT_ONCE", 1.0)
    monkeypatch.setattr(full, "resume", lambda: None)  # what has stopped it does not let it go
    with subprocess.Popen(["sleep", "60"], cwd=full.root) as other, session(full):
        server(full).suspend()
        ends(full)
        assert other.poll() is None
        other.kill()
    assert "it is killed, with its sessions" in capfd.readouterr().err
    loses_nothing(full)


@pytest.mark.parametrize("what", ["global", "pg_logical", "global/pg_control"])
def test_a_checkpoint_that_cannot_be_written_ends_the_stop_at_once_with_its_reason(
    full: Embedded, capfd: Said, what: str
) -> None:
    place = full.home.directory / what
    mode = place.stat().st_mode & 0o777
    place.chmod(0o500 if place.is_dir() else 0o400)
    try:
        ends(full, within=2)
    finally:
        place.chmod(mode)
    said = capfd.readouterr().err
    if "Permission denied" in full.last_words("postgres", 30):
        assert "It said:" in said
        assert "Permission denied" in said
        assert "PostgreSQL has ended." in said
    loses_nothing(full)


def test_a_server_that_crashes_again_and_again_is_ended(full: Embedded, capfd: Said) -> None:
    over = threading.Event()
    postmaster = server(full)

    def kill_each_child() -> None:
        while not over.wait(0.02):
            with contextlib.suppress(psutil.Error):
                for each in postmaster.children():
                    title = " ".join(each.cmdline())  # one that has just been forked has the postmaster's own
                    if title.startswith("postgres:") and "startup" not in title:  # without that it would not try again
                        each.kill()

    killer = threading.Thread(target=kill_each_child)
    killer.start()
    try:
        time.sleep(0.5)
        ends(full)
    finally:
        over.set()
        killer.join()
    said = capfd.readouterr().err  # it is ended at once, or its crash has ended it already
    ways = "immediate stop", "The server crashed while it was stopping. It said:", "ended without a last checkpoint"
    if said == "PostgreSQL has stopped.\n":  # it came to its last checkpoint all the same
        assert not shutdown._is_to_recover(full.home.directory)
    else:
        assert any(way in said for way in ways)
        assert "Nothing that was committed is lost" in said
    loses_nothing(full)


def test_a_server_that_is_killed_while_it_stops_has_not_stopped_cleanly(full: Embedded, capfd: Said) -> None:
    with session(full) as stuck:
        stuck.suspend()
        killer = threading.Timer(0.5, server(full).kill)
        killer.start()
        full.stop()
        killer.join()
        stuck.resume()
    said = capfd.readouterr().err
    assert "ended without a last checkpoint" in said
    assert "PostgreSQL has stopped" not in said
    loses_nothing(full)


def test_an_archive_command_that_hangs_does_not_hold_it(full: Embedded, capfd: Said) -> None:
    sql(full, "ALTER SYSTEM SET archive_mode = on")
    sql(full, "ALTER SYSTEM SET archive_command = 'sleep 600'")
    full.restart()
    wait.wait_usable(full, 20)
    sql(full, "SELECT pg_switch_wal()")
    archiver = child(full, "archiver")
    deadline = time.monotonic() + 10
    while not (hanging := archiver.children(recursive=True)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert hanging
    full.stop()
    assert full.services()[0].state == "not started"
    for each in hanging:
        with contextlib.suppress(psutil.Error):
            each.kill()
    said = capfd.readouterr().err
    assert "has not stopped within 2 s" in said
    for name in ("archive_mode", "archive_command"):
        with (full.home.directory / "postgresql.auto.conf").open("a") as file:
            file.write(f"{name} = {'off' if name == 'archive_mode' else repr('')}\n")
    loses_nothing(full)


def test_restart_goes_the_same_way(full: Embedded, capfd: Said) -> None:
    with session(full) as stuck:
        stuck.suspend()
        full.restart()
    assert "immediate stop" in capfd.readouterr().err
    loses_nothing(full)


def test_words_of_a_crash_in_a_statement_are_no_crash(full: Embedded, capfd: Said) -> None:
    sql(full, "ALTER SYSTEM SET log_statement = 'all'")
    sql(full, "SELECT pg_reload_conf()")
    stop_words = "2026-01-01 00:00:00 UTC [1] PANIC:  not one"
    done = threading.Event()

    def talk() -> None:
        with contextlib.suppress(psycopg.Error):
            while not done.is_set():
                sql(full, f"SELECT '{stop_words} (PID 1) was terminated by signal 9', pg_sleep(0.01)")

    talker = threading.Thread(target=talk)
    talker.start()
    time.sleep(0.3)
    capfd.readouterr()
    ends(full)
    done.set()
    talker.join()
    assert capfd.readouterr().err == "PostgreSQL has stopped.\n"


def interrupt(after: float) -> None:
    threading.Timer(after, lambda: os.kill(os.getpid(), signal.SIGINT)).start()


def test_ctrl_c_while_it_waits_says_what_goes_on(full: Embedded, capfd: Said) -> None:
    with session(full) as stuck:
        stuck.suspend()
        interrupt(0.5)
        with pytest.raises((KeyboardInterrupt, Interrupted)):  # by Python's way of Ctrl-C, or by ours
            full.stop()
        assert "goes on stopping" in capfd.readouterr().err
        stuck.resume()
    ends(full)
    loses_nothing(full)


# -- what its lock file no longer tells of -----------------------------------------------------------------


def delete(engine: Embedded) -> None:
    shutil.rmtree(engine.home.directory)


def delete_and_make_anew(engine: Embedded) -> None:
    shutil.rmtree(engine.home.directory)
    engine.home.directory.mkdir()


def test_ctrl_c_in_an_immediate_stop_says_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Said) -> None:
    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutdown, "_gone", interrupted)
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", deaf], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout
        server.stdout.readline()
        with pytest.raises(KeyboardInterrupt):
            shutdown.stop(server.pid, tmp_path / "log", 0.1)
        server.kill()
    assert capfd.readouterr().err.count("goes on stopping") == 1


@pytest.mark.parametrize("happen", [delete, delete_and_make_anew])
def test_a_server_whose_files_were_deleted_is_found_and_ended(
    full: Embedded, capfd: Said, happen: Callable[[Embedded], None]
) -> None:
    before = server(full).pid
    happen(full)
    with pytest.raises(StackError, match=rf"process {before}.*deleted beneath it.*`invoke down`"):
        up(full)
    ends(full)
    assert "were deleted beneath it" in capfd.readouterr().err
    up(full)
    assert sql(full, "SELECT count(*) FROM pg_tables WHERE tablename = 'kept'") == [0]


def test_a_server_whose_files_were_moved_stops_cleanly_where_they_are(full: Embedded, capfd: Said) -> None:
    elsewhere = full.root / "data" / "elsewhere"
    full.home.directory.rename(elsewhere)
    with pytest.raises(StackError, match="were moved away from"):
        up(full)
    ends(full)
    assert "were moved" in capfd.readouterr().err
    elsewhere.rename(full.home.directory)
    assert "database system is shut down" in full.last_words("postgres")
    loses_nothing(full)


def test_a_server_whose_lock_file_was_removed_stops_cleanly(full: Embedded, capfd: Said) -> None:
    (full.home.directory / "postmaster.pid").unlink()
    ends(full)
    assert "postmaster.pid" in capfd.readouterr().err
    loses_nothing(full)


def test_sessions_that_outlive_their_server_are_named_and_ended(full: Embedded, capfd: Said) -> None:
    with session(full) as stuck:
        stuck.suspend()
        server(full).kill()
        with pytest.raises(StackError, match=r"Sessions of a server that was killed still run.*`invoke down`"):
            up(full)
        assert stuck.is_running()
        ends(full)
    assert "Sessions of a server that was killed" in capfd.readouterr().err
    loses_nothing(full)


def test_another_checkouts_server_is_not_touched(full: Embedded, programs: object) -> None:
    from tests.unit.conftest import embedded

    (full.root / "other").mkdir()
    with embedded(full.home.programs, full.root / "other") as other:
        up(other)
        delete(full)
        ends_only = server(other).pid
        full.stop()
        assert psutil.pid_exists(ends_only)
        assert sql(other, "SELECT 1") == [1]
