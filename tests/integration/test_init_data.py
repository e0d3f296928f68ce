"""A second checkout that is born with the data of the first, while that runs and loses nothing by it."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.integration.checkout import (
    INVOKE,
    STAND_INS,
    configure,
    containers,
    docker,
    environment,
    fail,
    login,
    project,
    remove,
    run,
    sql,
    succeed,
    unique,
    value,
)
from tests.integration.conftest import Make, copy_for
from tests.integration.test_both import both_raise, convex, numbers

DATA = ("init", "--isolated", "--data")
OURS = "SELECT datname FROM pg_database WHERE datname ~ '^stack' OR datname = 'forked'"
Worktree = Callable[[], AbstractContextManager[Path]]


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@x", *words], check=True, cwd=folder)


def tracked(main: Path) -> Path:
    """Let git know a copy, so that it can have worktrees."""
    git(main, "init", "-q", "-b", "main")
    git(main, "add", "--all")
    git(main, "commit", "-qm", "x")
    return main


@contextmanager
def worktree_of(main: Path) -> Iterator[Path]:
    """Make a worktree, with nothing of its own, and remove it with all that was started from it."""
    folder = main.with_name(unique())
    git(main, "worktree", "add", "-q", "-b", folder.name, str(folder))
    try:
        yield folder
    finally:
        if folder.exists():
            run(folder, "down")
            remove(folder)


@pytest.fixture
def main(either: Path) -> Path:
    """A checkout known to git whose database is up, with 1000 rows, on each engine in turn."""
    succeed(tracked(either), "up")
    sql(either, "CREATE TABLE rows AS SELECT n FROM generate_series(1, 1000) AS n")
    return either


def count(copy: Path) -> int:
    return int(sql(copy, "SELECT count(*) FROM rows")[0])


def leaf(copy: Path) -> Path:
    return copy / "data" / ("pg" if value(copy, "STACK_ENGINE") == "docker" else "embedded")


def leftovers(copy: Path) -> list[str]:
    return [path.name for path in (copy / "data").iterdir() if path.name.startswith((".new-", ".born-", ".wiped-"))]


# -- what comes along -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("counted")
def test_a_worktree_has_the_same_rows_and_the_same_convex(make: Make) -> None:
    main = make(CONVEX_INSTANCE_NAME="mine", CONVEX_INSTANCE_SECRET="5e" * 32)
    succeed(tracked(main), "up")
    sql(main, "CREATE TABLE counter AS SELECT 0 AS n")
    for _ in range(3):
        both_raise(main)
    succeed(main, "snapshot", "one")
    succeed(main, "fork", "forked")
    before = containers(main)
    with worktree_of(main) as fix:
        mark = main / "data" / f".restoring-1-0-snapshot-{'0' * 32}-undo-{'0' * 32}"
        mark.mkdir()
        fail(fix, 2, *DATA, saying=("interrupted between the database and Convex", "`invoke up` there"))
        mark.rmdir()
        told = run(fix, *DATA)
        assert told.returncode == 0, told.stderr
        assert f"It has a copy of the data of {main} with Convex (" in told.stderr
        assert "Snapshots and forks are left out" in told.stderr
        assert "5e5e" not in told.stderr
        assert (value(fix, "CONVEX_INSTANCE_NAME"), value(fix, "STACK_RESTART")) == ("mine", "no")
        assert numbers(main) == (3, 3)
        succeed(fix, "up")
        assert numbers(fix) == (3, 3)
        assert sql(fix, OURS) == []
        both_raise(fix)
        assert (numbers(fix), numbers(main)) == ((4, 4), (3, 3))
        both_raise(main)
        both_raise(main)
        assert (numbers(fix), numbers(main)) == ((4, 4), (5, 5))
        assert containers(main) == before
        for each in containers(fix).values():
            assert docker("inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", each) == "no"
        docker("stop", containers(fix)["postgres"])
        assert run(fix, "status").returncode == 1  # that it is not started again makes its end no success
        succeed(fix, "up")
        succeed(fix, "snapshot", "of-its-own")
        (cure,) = re.findall("`(git worktree remove .*)` may follow", run(fix, "retire", "--yes").stderr)
        git(main, *shlex.split(cure)[1:])
        assert not fix.exists()
    succeed(main, "restore", "one")
    assert numbers(main) == (3, 3)


@pytest.mark.usefixtures("counted")
def test_snapshots_come_along_when_they_are_wanted(make: Make) -> None:
    main = make()
    succeed(tracked(main), "up")
    sql(main, "CREATE TABLE counter AS SELECT 0 AS n")
    both_raise(main)
    succeed(main, "snapshot", "one")
    both_raise(main)
    succeed(main, "down")
    with worktree_of(main) as fix:
        succeed(fix, *DATA, "--snapshots")
        assert "its snapshots one" in run(fix, "reset-data", "--dry-run").stderr
        succeed(fix, "up")
        assert numbers(fix) == (2, 2)
        succeed(fix, "restore", "one")
        assert numbers(fix) == (1, 1)
        succeed(fix, "undo")
        assert numbers(fix) == (2, 2)
    succeed(main, "up")
    assert (numbers(main), convex(main)) == ((2, 2), 2)


@pytest.mark.parametrize("runs", [True, False])
def test_only_the_databases_of_the_user_come_along(main: Path, runs: bool) -> None:
    succeed(main, "snapshot", "one")
    succeed(main, "fork", "forked")
    sql(main, "CREATE DATABASE another")
    sql(main, "SELECT pg_create_physical_replication_slot('slot', true)")
    sql(
        main,
        "CREATE SUBSCRIPTION sub CONNECTION 'host=127.0.0.1 port=1 dbname=x' PUBLICATION p"
        " WITH (connect = false, slot_name = 'theirs')",
    )
    sql(main, "ALTER SUBSCRIPTION sub ENABLE")
    sql(main, "CREATE UNLOGGED TABLE quick AS SELECT generate_series(1, 3) AS n")
    if not runs:
        succeed(main, "down")
    with worktree_of(main) as fix:
        told = run(fix, *DATA)
        assert told.returncode == 0, told.stderr
        assert ("Unlogged tables are empty in it, since no server hands their rows out: quick." in told.stderr) == runs
        assert "Subscriptions that are switched off here: sub." in told.stderr
        succeed(fix, "up")
        assert count(fix) == 1000
        assert sql(fix, "SELECT count(*) FROM quick") == [0 if runs else 3]
        assert sql(fix, OURS) == []
        assert sql(fix, "SELECT 1 FROM pg_database WHERE datname = 'another'") == [1]
        assert sql(fix, "SELECT slot_name FROM pg_replication_slots") == []
        assert sql(fix, "SELECT subenabled FROM pg_subscription WHERE subslotname IS NULL") == [False]
        assert json.loads(succeed(fix, "snapshots", "--json")) == []
        succeed(fix, "snapshot", "one")
        succeed(fix, "restore", "one")
    if not runs:
        succeed(main, "up")
    assert sql(main, "SELECT subenabled FROM pg_subscription WHERE subslotname = 'theirs'") == [True]
    assert sql(main, "SELECT slot_name FROM pg_replication_slots WHERE slot_name = 'slot'") == ["slot"]
    sql(main, "ALTER SUBSCRIPTION sub DISABLE")
    sql(main, "ALTER SUBSCRIPTION sub SET (slot_name = NONE)")
    succeed(main, "restore", "one")


@pytest.mark.parametrize("engine", ["docker", "embedded"])
def test_settings_that_belong_to_the_data_come_along(engine: str, template: Path, tmp_path: Path) -> None:
    with copy_for(engine, template, tmp_path / unique(), anew=True) as main:
        configure(main, POSTGRES_USER="owner", POSTGRES_PASSWORD="'pa$s word'", POSTGRES_DB="my-app")
        succeed(tracked(main), "up")
        sql(main, "CREATE TABLE rows AS SELECT 1")
        with worktree_of(main) as fix:
            (fix / ".env").write_text("# mine\nPOSTGRES_USER=another # not for long\nBIND_ADDRESS=127.0.0.1\n")
            told = run(fix, *DATA)
            assert told.returncode == 0, told.stderr
            assert "pa$s" not in told.stderr
            text = (fix / ".env").read_text()
            assert "# mine\nPOSTGRES_USER=owner # not for long\nBIND_ADDRESS=127.0.0.1\n" in text
            assert "POSTGRES_PASSWORD='pa$s word'\n" in text
            succeed(fix, "up")
            assert count(fix) == 1
            succeed(fix, "down")
        succeed(main, "down")


def test_a_checkout_that_git_does_not_know_is_named(main: Path, template: Path, tmp_path: Path) -> None:
    with copy_for(value(main, "STACK_ENGINE"), template, tmp_path / "second", anew=True) as second:
        assert "`invoke init --isolated --data --from DIR`" in fail(second, 2, *DATA)
        succeed(second, *DATA, "--from", "../" + main.name)
        succeed(second, "up")
        assert count(second) == 1000
        assert project(second) != project(main)
        succeed(second, "down")


# -- the other one notices nothing ------------------------------------------------------------------------


class Writer(threading.Thread):
    """Writes the next number for as long as it is let, in one session, and knows the last that was acknowledged."""

    def __init__(self, copy: Path) -> None:
        super().__init__(daemon=True)
        self.connection = login(copy)
        self.last = 0
        self.ended = threading.Event()
        self.failed: list[psycopg.Error] = []

    def run(self) -> None:
        try:
            while not self.ended.is_set():
                self.connection.execute("INSERT INTO written VALUES (%s, repeat('x', 500))", [self.last + 1])
                self.last += 1
        except psycopg.Error as error:
            self.failed.append(error)


def test_a_writer_loses_no_row_and_no_session_by_five_copies(main: Path) -> None:
    sql(main, "CREATE TABLE written (n int PRIMARY KEY, filler text)")
    writers = [Writer(main)]
    writer = writers[0]
    writer.start()
    try:
        for _ in range(5):
            before = writer.last
            with worktree_of(main) as fix:
                succeed(fix, *DATA)
                after = writer.last
                assert after > before, "nothing was written meanwhile"
                succeed(fix, "up")
                with login(fix) as there:
                    ((rows, last),) = there.execute("SELECT count(*), max(n) FROM written").fetchall()
                assert rows == last
                assert before <= last <= after + 1
                sql(fix, "TRUNCATE written")
                succeed(fix, "down")
    finally:
        writer.ended.set()
        writer.join()
    assert not writer.failed
    assert sql(main, "SELECT count(*) FROM written") == [writer.last]
    writer.connection.close()


# -- killed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", [True, False])
def test_killed_at_any_moment_it_is_typed_again(main: Path, runs: bool) -> None:
    chance, kills = random.Random(15), 0  # noqa: S311 - the same moments each time
    if not runs:
        succeed(main, "down")
    with worktree_of(main) as fix:
        for turn in range(6):
            child = subprocess.Popen(
                [*INVOKE, *DATA], cwd=fix, env=environment(), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                child.wait(chance.uniform(0.2, 3) if turn else 0.2)
            except subprocess.TimeoutExpired:
                os.kill(child.pid, signal.SIGKILL)
                kills += 1
            child.wait()
            again = run(fix, *DATA)
            whole = "There is data in" in again.stderr
            assert again.returncode == (2 if whole else 0), again.stderr
            succeed(fix, "up")
            assert count(fix) == 1000
            assert value(fix, "POSTGRES_PORT") != value(main, "POSTGRES_PORT")
            assert leftovers(fix) == []
            succeed(fix, "reset-data", "--yes")
    assert kills
    if not runs:
        succeed(main, "up")
    assert count(main) == 1000


def test_interrupted_it_leaves_nothing_and_up_begins_empty(main: Path) -> None:
    sql(main, "CREATE TABLE filler AS SELECT n, repeat(md5(n::text), 60) FROM generate_series(1, 50000) AS n")
    with worktree_of(main) as fix:
        child = subprocess.Popen([*INVOKE, *DATA], cwd=fix, env=environment(), stderr=subprocess.PIPE, text=True)
        assert child.stderr
        deadline = time.monotonic() + 60
        while not leftovers(fix):
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        told = child.communicate(timeout=60)[1]
        assert child.returncode == 130, told
        assert leftovers(fix) == []
        succeed(fix, "up")
        assert sql(fix, "SELECT count(*) FROM pg_tables WHERE tablename = 'rows'") == [0]


def test_a_password_that_the_database_was_not_given_yet_is_not_said_to_be_that_of_the_data(main: Path) -> None:
    configure(main, POSTGRES_PASSWORD="another")
    with worktree_of(main) as fix:
        told = run(fix, *DATA)
        assert told.returncode == 0
        assert "POSTGRES_PASSWORD is that of the other checkout" in told.stdout + told.stderr
        fail(fix, 1, "up", saying=("initialised with another password", "`invoke doctor --fix`"))
        run(fix, "doctor", "--fix")  # the cure
        assert count(fix) == 1000


def test_a_checkout_whose_git_other_worktrees_have_is_not_said_to_be_deleted_next(make: Make) -> None:
    main = tracked(make())
    with worktree_of(main) as fix:
        told = run(main, "retire", "--yes").stderr
        assert f"Keep the folder: its .git is also that of {fix}." in told
        assert "rm -rf" not in told
        remove(fix)
    assert "`rm -rf " in run(main, "retire", "--yes").stderr  # git has not been told yet that it is gone


# -- refusals ---------------------------------------------------------------------------------------------


def test_it_is_refused_in_words_and_nothing_is_touched(main: Path, tmp_path: Path) -> None:
    fail(main, 2, *DATA, saying=("This is no worktree of another checkout", "--from DIR"))
    with worktree_of(main) as fix:
        fail(fix, 2, "init", "--data", saying=("`invoke init --isolated --data`",))
        fail(fix, 2, "init", "--isolated", "--from", str(main), saying=("`invoke init --isolated --data`",))
        fail(fix, 2, *DATA, "--password", saying=("Leave out --password",))
        fail(fix, 2, *DATA, "--from", ".", saying=("is this checkout itself",))
        fail(fix, 2, *DATA, "--from", str(tmp_path), saying=("is no checkout of this repository",))
        with worktree_of(main) as empty:
            fail(fix, 2, *DATA, "--from", str(empty), saying=(f"no data in {empty} yet", "Type `invoke up` there"))
        external = {"STACK_ENGINE": "external", "DATABASE_URL": "postgresql://127.0.0.1:1/x"}
        told = fail(fix, 2, *DATA, env=external, saying=(f"{fix} uses a server", "external engine", "`unset STACK_ENG"))
        assert "`invoke dump " not in told  # it would write down what is in that server
        assert not (fix / ".env").exists()
        assert leftovers(fix) == []
        configure(fix, **external)
        fail(fix, 2, *DATA, saying=(f"{fix} uses a server that is run elsewhere",))
        (fix / ".env").unlink()
        succeed(fix, *DATA)
        fail(fix, 2, *DATA, saying=("There is data in", "Type `invoke up` to use it"))
        succeed(fix, "up")  # the cure
        assert count(fix) == 1000
        fail(fix, 2, *DATA, saying=("is running", "Type `invoke down`"))


@pytest.mark.usefixtures("images")
def test_another_engine_is_refused_and_a_dump_goes_over(main: Path) -> None:
    other = {"docker": "embedded", "embedded": "docker"}[value(main, "STACK_ENGINE")]
    with worktree_of(main) as fix:
        told = fail(fix, 2, *DATA, env={"STACK_ENGINE": other}, saying=("the engine", "`unset STACK_ENGINE`"))
        cures = [shlex.split(words)[1:] for words in re.findall("`(invoke [^`]*)`", told)]
        assert [words[0] for words in cures] == ["dump", "init", "up", "load"]
        succeed(main, *cures[0])
        configure(fix, **STAND_INS, STACK_LAYERS="dev,alone", STACK_ENGINE=other)
        if other == "embedded":
            configure(fix, POSTGRES_BIN_DIR=f"'{_programs()}'")
        for words in cures[1:]:
            succeed(fix, *words)
        assert count(fix) == 1000
        succeed(fix, "down")


def _programs() -> Path:
    from stack.ground import settings
    from stack.server.programs import server_programs

    return server_programs(settings.ROOT)


def test_data_of_another_version_and_a_tablespace_elsewhere_are_refused(main: Path) -> None:
    engine, cluster = value(main, "STACK_ENGINE"), leaf(main)
    place = "/var/lib/postgresql/data/space" if engine == "docker" else str(cluster / "space")
    if engine == "docker":
        docker("exec", "-u", "postgres", containers(main)["postgres"], "mkdir", place)
    else:
        Path(place).mkdir()
        owner = cluster.stat()
        os.chown(place, owner.st_uid, owner.st_gid)
    with worktree_of(main) as fix:
        sql(main, f"CREATE TABLESPACE space LOCATION '{place}'")
        fail(fix, 2, *DATA, saying=("a tablespace outside of its directory (space)", "`invoke dump "))
        assert leftovers(fix) == []
        sql(main, "DROP TABLESPACE space")
        succeed(main, "down")
        _write(main, cluster / "PG_VERSION", "16")
        fail(fix, 2, *DATA, saying=("made by PostgreSQL 16, and this checkout starts 17",))
        _write(main, cluster / "PG_VERSION", "17")
        succeed(fix, *DATA)


def _write(copy: Path, file: Path, text: str) -> None:
    """Write a file of the cluster, as whoever owns it."""
    if os.access(file, os.W_OK):
        file.write_text(f"{text}\n")
        return
    image = STAND_INS["POSTGRES_IMAGE"]
    docker("run", "--rm", "--user", "0", "--volume", f"{file.parent}:/c", "--entrypoint", "sh", image, "-c",
           f"echo {text} >/c/{file.name}", cwd=copy)  # fmt: skip


def test_a_server_that_lets_no_replication_in_is_copied_when_it_is_down(main: Path) -> None:
    sql(main, "ALTER SYSTEM SET max_wal_senders = 0")
    succeed(main, "restart")
    with worktree_of(main) as fix:
        told = fail(fix, 1, *DATA, saying=("could not be copied: pg_basebackup: error:", f"`invoke down` in {main}"))
        assert "Nothing was done." in told
        assert leftovers(fix) == []
        succeed(main, "down")
        succeed(fix, *DATA)
        succeed(fix, "up")
        assert count(fix) == 1000


def test_a_pool_whose_snapshot_did_not_come_along_is_told_and_ended(main: Path) -> None:
    succeed(main, "snapshot", "one")
    succeed(main, "pool", "one", "--size", "1")
    with worktree_of(main) as fix:
        succeed(fix, *DATA)
        succeed(fix, "up")
        with login(fix, dbname="postgres") as session, pytest.raises(psycopg.Error) as told:
            session.execute("SELECT stack.take()")
        assert "`invoke drop-pool` ends the pool" in str(told.value)
        succeed(fix, "drop-pool")  # the cure
        succeed(fix, "snapshot", "two")
        succeed(fix, "pool", "two", "--size", "1")
        with login(fix, dbname="postgres") as session:
            name = session.execute("SELECT stack.take()").fetchall()[0][0]
            with login(fix, dbname=name) as taken:
                assert taken.execute("SELECT count(*) FROM rows").fetchall() == [(1000,)]


def test_data_in_a_volume_is_refused(make: Make) -> None:
    main = make(STACK_LAYERS="dev,volumes")
    with worktree_of(tracked(main)) as fix:
        fail(fix, 2, *DATA, saying=("keeps its data in Docker's volume", "`invoke dump "))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
def test_a_disk_without_room_is_refused(main: Path) -> None:
    with worktree_of(main) as fix:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120m,mode=755", "x", str(fix / "data")], check=True)
        try:
            fail(fix, 2, *DATA, saying=("There is no room for a copy", "Make room"))
            assert leftovers(fix) == []
        finally:
            subprocess.run(["umount", "--lazy", str(fix / "data")], check=True)
        succeed(fix, *DATA)
