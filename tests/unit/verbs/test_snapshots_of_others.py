"""Snapshots beside what is somebody else's, and with what PostgreSQL does not let go; on a real PostgreSQL 17."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg import sql

from stack.doctor import on_database
from stack.engines import checks
from stack.engines.embedded.engine import Embedded
from stack.ground.errors import Refused, StackError
from stack.ground.run import look
from stack.server import waits
from stack.verbs import facts, snapshots, spares, store, up
from stack.verbs import login as login_room
from stack.verbs import restore as restore_room
from tests.unit.conftest import embedded

pytestmark = [pytest.mark.xdist_group("snapshots of others"), pytest.mark.slow]

KINDS = (store.SNAPSHOT, store.SPARE, store.MAKING, store.DOOMED)
THEIRS = [f"{kind}{digit * 32}" for digit, kind in zip("0123", KINDS, strict=True)]


@pytest.fixture(scope="module")
def server(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with embedded(programs, tmp_path_factory.mktemp("others")) as made:
        up.bring_up(made, 30, pull=False, wait=True)
        for setting in ("fsync = off", "wal_level = logical", "max_prepared_transactions = 9"):
            ask(made, f"ALTER SYSTEM SET {setting}")
        made.stop()
        up.bring_up(made, 30, pull=False, wait=True)
        yield made


@pytest.fixture
def engine(server: Embedded, monkeypatch: pytest.MonkeyPatch) -> Iterator[Embedded]:
    """The server with an empty database and no snapshots; what runs in the background does so at once."""
    monkeypatch.setattr(spares, "go_on_in_background", spares.keep_ready)
    clean(server)
    ask(server, "CREATE DATABASE convex_poc TEMPLATE template0", "postgres")  # others may be in template1
    yield server
    clean(server)


def clean(engine: Embedded) -> None:
    for (pid,) in rows(engine, "SELECT active_pid FROM pg_replication_slots WHERE active"):
        ask(engine, f"SELECT pg_terminate_backend({pid}, 5000)", "postgres")
    for (slot,) in rows(engine, "SELECT slot_name FROM pg_replication_slots"):
        ask(engine, f"SELECT pg_drop_replication_slot('{slot}')", "postgres")
    ask(engine, "UPDATE pg_database SET datconnlimit = -1 WHERE datconnlimit = -2", "postgres")
    for (name,) in rows(engine, "SELECT datname FROM pg_database WHERE datname !~ '^(postgres|template.)$'"):
        quoted = sql.Identifier(name).as_string()
        ask(engine, f"ALTER DATABASE {quoted} ALLOW_CONNECTIONS true IS_TEMPLATE false", "postgres")
        for (gid,) in rows(engine, f"SELECT quote_literal(gid) FROM pg_prepared_xacts WHERE database = '{name}'"):
            ask(engine, f"ROLLBACK PREPARED {gid}", name)
        for (each,) in rows(
            engine, f"SELECT subname FROM pg_subscription s, pg_database d WHERE d.oid = subdbid AND datname = '{name}'"
        ):
            for what in (
                f"ALTER SUBSCRIPTION {each} DISABLE",
                f"ALTER SUBSCRIPTION {each} SET (slot_name = NONE)",
                f"DROP SUBSCRIPTION {each}",
            ):
                ask(engine, what, name)
        ask(engine, f"DROP DATABASE {quoted} WITH (FORCE)", "postgres")


def login(engine: Embedded, database: str = "convex_poc", **words: Any) -> psycopg.Connection[Any]:
    return psycopg.connect(engine.endpoint().url(masked=False), dbname=database, autocommit=True, **words)


def ask(engine: Embedded, statement: str, database: str = "convex_poc") -> list[Any]:
    with login(engine, database) as connection:
        cursor = connection.execute(statement.encode())
        return [row[0] for row in cursor] if cursor.description else []


def rows(engine: Embedded, statement: str) -> list[Any]:
    with login(engine, "postgres") as connection:
        return connection.execute(statement.encode()).fetchall()


def ours(engine: Embedded) -> list[str]:
    """The kinds of databases that are called as ours, but for what `undo` brings back."""
    ours = "datname LIKE 'stack_%' AND datname NOT LIKE 'stack-undo-%'"
    found = rows(engine, f"SELECT datname FROM pg_database WHERE {ours} ORDER BY 1")
    return [name[:-33] for (name,) in found]


def names(engine: Embedded) -> list[str]:
    return [each.name for each in snapshots.listed(engine)]


def typed(engine: Embedded, sentence: str) -> None:
    """Type every `invoke psql` of a sentence, with psql itself."""
    found = re.findall(r"`([^`]*invoke psql[^`]*)`", sentence)
    assert found
    client = engine.client("psql", stdin=True)
    program = shlex.join(client.argv)
    for line in found:
        done = look(["sh", "-c", line.replace("invoke psql", program)], client.env)
        assert done.returncode == 0, done.stderr
        assert "ERROR" not in done.stderr


def checked(engine: Embedded) -> list[checks.Finding]:
    return list(on_database.unfinished_copies(SimpleNamespace(engine=engine)))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


# -- the order of things ----------------------------------------------------------------------------------


class Clock:
    """Stands in for the module time of `snapshots`, so many seconds off."""

    def __init__(self, off: float) -> None:
        self.time = lambda: time.time() + off
        self.monotonic, self.sleep = time.monotonic, time.sleep


def test_the_last_taken_is_the_newest_though_the_clock_was_set_back(
    engine: Embedded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, off in (("first", 1e7), ("second", 0.0), ("third", -1e7)):
        ask(engine, f"CREATE TABLE {name} ()")
        with monkeypatch.context() as moved:
            moved.setattr(snapshots, "time", Clock(off))
            snapshots.take(engine, name)
    assert names(engine) == ["third", "second", "first"]
    assert {each.name: each.spare for each in snapshots.listed(engine)}["third"] == "ready"
    said(capsys)
    snapshots.print_list(engine, as_json=False)
    shown = capsys.readouterr().out
    assert "ahead of the clock" in shown
    assert "116 d ago" in shown
    ask(engine, "DROP TABLE third")
    restore_room.restore(engine)
    assert ask(engine, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [3]
    with monkeypatch.context() as moved:
        moved.setattr(snapshots, "time", Clock(-1e8))
        restore_room.restore(engine, "second", keep=True)
    assert snapshots.listed(engine)[0].message == "replaced by second"
    assert {each.name: each.spare for each in snapshots.listed(engine)}["second"] == "ready"


def former(engine: Embedded, name: str, digits: str, taken: float, kind: str = "snapshot") -> str:
    """Make what the version before there were marks left behind."""
    stored = f"stack-{kind}-{digits * 32}"
    ask(engine, f'CREATE DATABASE "{stored}" TEMPLATE convex_poc ALLOW_CONNECTIONS false', "postgres")
    facts = {"name": name, "database": "convex_poc", "taken": taken, "used": taken, "server_version": "17.10",
             "message": "", "comment": None}  # fmt: skip
    if kind == "snapshot":
        ask(engine, f"""COMMENT ON DATABASE "{stored}" IS '{json.dumps(facts)}'""", "postgres")
    return stored


def test_what_the_version_before_took_is_named_ordered_and_restored(engine: Embedded) -> None:
    ask(engine, "CREATE TABLE kept ()")
    far = datetime(2090, 1, 1).timestamp()
    former(engine, "old", "a", 1.7e9)
    former(engine, "older", "b", 1.6e9)
    former(engine, "far", "c", far)
    left = former(engine, "", "c", 0, "spare")  # named as the spare that will be wanted
    snapshots.take(engine, "new")
    assert names(engine) == ["new", "far", "old", "older"]
    ask(engine, "DROP TABLE kept")
    for name in ("old", "far", "far"):
        restore_room.restore(engine, name)
        assert ask(engine, "SELECT count(*) FROM kept") == [0]
        ask(engine, "DROP TABLE kept")
    assert [each.message.split()[2] for each in checked(engine)] == [left]
    for name in ("old", "older", "far", "new"):
        snapshots.drop(engine, name, yes=True)
    assert ours(engine) == ["stack-spare"]


@pytest.mark.parametrize(
    "change",
    [{"taken": 1e300}, {"taken": float("nan")}, {"taken": "now"}, {"used": [], "turn": -1}, {"turn": 1 << 70},
     {"name": "a\x1b]0;x\x07"}, {"name": ""}, {"message": "two\nlines"}, {"limit": 1 << 40}, {"template": "yes"},
     {"used_turn": True}, {"comment": 5}, {"database": None}],
)  # fmt: skip
def test_facts_that_somebody_changed_break_nothing(
    engine: Embedded, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    snapshots.take(engine, "one")
    (found,) = snapshots.listed(engine)
    facts = {**json.loads(found.facts()), **change}
    with login(engine, "postgres") as session:
        session.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(found.stored), json.dumps(facts)))
    (found,) = snapshots.listed(engine)
    for as_json in (False, True):
        snapshots.print_list(engine, as_json=as_json)
    assert "\x1b" not in capsys.readouterr().out
    restore_room.restore(engine, found.name)
    assert ask(engine, "SELECT 1") == [1]
    snapshots.drop(engine, found.name, yes=True)
    assert ours(engine) == []


# -- what is somebody else's -------------------------------------------------------------------------------


def test_databases_that_are_only_called_as_ours_are_left_alone(engine: Embedded) -> None:
    for name in THEIRS:
        ask(engine, f'CREATE DATABASE "{name}"', "postgres")
        ask(engine, "CREATE TABLE precious ()", name)
    ask(engine, f"""COMMENT ON DATABASE "{THEIRS[0]}" IS '{{"stack": 2}}'""", "postgres")
    ask(engine, f"""COMMENT ON DATABASE "{THEIRS[3]}" IS '{{"stack": 2}}'""", "postgres")
    assert names(engine) == []
    snapshots.take(engine, "one")
    restore_room.restore(engine)
    snapshots.take(engine, "one", overwrite=True)
    assert names(engine) == ["one"]
    assert [each.message.split()[2] for each in checked(engine)] == sorted(THEIRS)
    spares.clear(engine)
    for name in THEIRS:
        assert ask(engine, "SELECT count(*) FROM precious", name) == [0]
    for each in checked(engine)[:1]:
        typed(engine, each.cure)
    assert [each.message.split()[2] for each in checked(engine)] == sorted(THEIRS)[1:]


def test_the_users_database_may_be_called_as_ours(engine: Embedded) -> None:
    for name in THEIRS:
        ask(engine, f'CREATE DATABASE "{name}"', "postgres")
        other = Embedded(replace(engine.settings, database=name), engine.root)
        ask(engine, "CREATE TABLE kept ()", name)
        snapshots.take(other, "one")
        ask(engine, "DROP TABLE kept", name)
        restore_room.restore(other)
        assert ask(engine, "SELECT count(*) FROM kept", name) == [0]
        restore_room.restore(other, keep=True)
        assert ask(engine, "SELECT count(*) FROM kept", name) == [0]


def test_a_half_dropped_database_is_dropped_only_when_it_is_ours(engine: Embedded) -> None:
    snapshots.take(engine, "one")
    for name in THEIRS:
        ask(engine, f'CREATE DATABASE "{name}"', "postgres")
    ask(engine, "UPDATE pg_database SET datconnlimit = -2 WHERE datname ~ '^stack-(doomed|spare)'", "postgres")
    snapshots.listed(engine)
    assert len(ours(engine)) == 6
    assert {name for (name,) in rows(engine, "SELECT datname FROM pg_database")} >= set(THEIRS)


def test_a_killed_copy_is_ours_from_its_first_moment(engine: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    with login_room.administrator(engine, "x") as cluster:
        monkeypatch.setattr(cluster, "_copy_grants", lambda *_: cluster.run("DROP ROLE {}", "nobody"))
        with pytest.raises(psycopg.errors.UndefinedObject):
            cluster.copy("convex_poc", f"stack_making_{'a' * 32}", limit=facts.MARK, comment="{}")
    assert ours(engine) == ["stack_making"]
    assert [each.fix is not None for each in checked(engine)] == [True]
    names(engine)
    assert ours(engine) == []


@pytest.mark.parametrize(
    "program", ["stack-worker", "stack-work", "stack-keeper", "stack-copy-x", "stack-copy-" + "a" * 32]
)
@pytest.mark.parametrize("database", ["other", "postgres"])
def test_an_application_that_is_called_as_we_are_keeps_its_session(
    engine: Embedded, program: str, database: str
) -> None:
    if database == "other":
        ask(engine, "CREATE DATABASE other", "postgres")
    with login(engine, database, application_name=program) as theirs:
        theirs.execute("SELECT pg_advisory_lock(1)")
        snapshots.take(engine, "one")
        restore_room.restore(engine, "one")
        spares.clear(engine)
        snapshots.drop(engine, "one", yes=True)
        assert theirs.execute("SELECT 1").fetchone() == (1,)


def test_an_application_called_as_the_copier_keeps_nobody_waiting(engine: Embedded) -> None:
    without = Embedded(replace(engine.settings, spare=False), engine.root)
    snapshots.take(without, "one")
    (found,) = snapshots.listed(engine)
    with login(engine, "postgres", application_name=store.COPY + found.id):
        restore_room.restore(without)


# -- templates ---------------------------------------------------------------------------------------------


def test_the_mark_of_a_template_and_the_connection_limit_come_back_and_keep_nothing(engine: Embedded) -> None:
    marks = "SELECT datistemplate, datconnlimit FROM pg_database WHERE datname = 'convex_poc'"
    ask(engine, "ALTER DATABASE convex_poc IS_TEMPLATE true CONNECTION LIMIT 7")
    snapshots.take(engine, "one")
    ask(engine, "ALTER DATABASE convex_poc CONNECTION LIMIT 9")
    for keep in (False, True, False):
        restore_room.restore(engine, "one", keep=keep)
        assert rows(engine, marks) == [(True, 7)]
    assert ours(engine) == ["stack-snapshot", "stack-snapshot", "stack-spare"]
    ask(engine, "ALTER DATABASE convex_poc IS_TEMPLATE false CONNECTION LIMIT -1")
    kept = names(engine)[0]
    restore_room.restore(engine, kept)
    assert rows(engine, marks) == [(True, 7)]
    for (name,) in rows(engine, "SELECT datname FROM pg_database WHERE datname LIKE 'stack_%'"):
        ask(engine, f'ALTER DATABASE "{name}" IS_TEMPLATE true', "postgres")
    for name in names(engine):
        snapshots.drop(engine, name, yes=True)
    assert ours(engine) == []


# -- what cannot be dropped -------------------------------------------------------------------------------


def doom(engine: Embedded, digits: str = "a") -> str:
    name = f"stack-doomed-{digits * 32}"
    ask(engine, f'CREATE DATABASE "{name}" CONNECTION LIMIT {facts.MARK}', "postgres")
    return name


def prepare(engine: Embedded, database: str, gid: str) -> None:
    with login(engine, database) as session:
        session.execute("BEGIN")
        session.execute("CREATE TABLE t ()")
        session.execute(f"PREPARE TRANSACTION '{gid}'".encode())


def test_one_that_cannot_be_dropped_stops_no_other_and_is_named(
    engine: Embedded, capsys: pytest.CaptureFixture[str]
) -> None:
    stuck, free = doom(engine, "a"), doom(engine, "b")
    prepare(engine, stuck, "it''s")
    snapshots.take(engine, "one")
    restore_room.restore(engine)
    assert ours(engine) == ["stack-doomed", "stack-snapshot", "stack-spare"]
    assert free not in str(rows(engine, "SELECT datname FROM pg_database"))
    said(capsys)
    assert names(engine) == ["one"]
    step, line = said(capsys).splitlines()
    assert step.startswith("`invoke undo` brings back convex_poc as it was before `invoke restore one`")
    assert stuck in line
    assert "is being accessed by other users" in line
    assert "prepared transaction" in line
    (finding,) = checked(engine)
    assert "is being accessed by other users" in finding.message
    with pytest.raises(StackError, match=r"could not be dropped.*other users"):
        spares.clear(engine)
    typed(engine, finding.cure)
    spares.clear(engine)
    assert checked(engine)[0].state == "ok"


def test_a_session_that_cannot_be_ended(engine: Embedded, capsys: pytest.CaptureFixture[str]) -> None:
    stuck = doom(engine)
    with login(engine, stuck) as session:
        os.kill(session.info.backend_pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            spares.keep_ready(engine)
            assert time.monotonic() - began < 40
            said(capsys)
            assert names(engine) == []
            assert "There is 1 other session" in said(capsys)
            assert f"({session.info.backend_pid})" in checked(engine)[0].cure
            with pytest.raises(StackError, match="other session"):
                spares.clear(engine)
        finally:
            os.kill(session.info.backend_pid, signal.SIGCONT)
    spares.clear(engine)
    assert ours(engine) == []


def test_a_lock_on_one_of_ours_does_not_keep_the_background_for_ever(engine: Embedded) -> None:
    stuck = doom(engine)
    with login(engine, "postgres") as session:
        session.execute("BEGIN")
        session.execute(f"""COMMENT ON DATABASE "{stuck}" IS 'mine'""".encode())
        began = time.monotonic()
        spares.keep_ready(engine)
        assert time.monotonic() - began < 60
        session.execute("ROLLBACK")
    spares.keep_ready(engine)
    assert ours(engine) == []


# -- what does not come along ------------------------------------------------------------------------------


@contextmanager
def reader(engine: Embedded, slot: str = "s") -> Iterator[None]:
    """Somebody who reads a slot, as a subscriber would."""
    ask(engine, f"SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')")
    program = Path(engine.client("psql").argv[0]).with_name("pg_recvlogical")
    endpoint = engine.endpoint()
    argv = [str(program), "-d", endpoint.url(masked=False), "--slot", slot, "--start", "-f", "/dev/null", "--no-loop"]
    child = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not rows(engine, f"SELECT FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("keep", [False, True])
def test_a_slot_that_somebody_reads_goes_only_when_that_is_wanted(
    engine: Embedded, capsys: pytest.CaptureFixture[str], keep: bool
) -> None:
    snapshots.take(engine, "one")
    ask(engine, "CREATE TABLE new ()")
    with reader(engine):
        said(capsys)
        with pytest.raises(Refused, match="nothing was touched"):
            restore_room.restore(engine, keep=keep)
        words = said(capsys)
        assert "the replication slot s, which pid " in words
        assert "pg_recvlogical" in words
        assert rows(engine, "SELECT active FROM pg_replication_slots") == [(True,)]
        assert ask(engine, "SELECT count(*) FROM new") == [0]
        restore_room.restore(engine, keep=keep, yes=True)
    assert ask(engine, "SELECT count(*) FROM pg_tables WHERE tablename = 'new'") == [0]
    assert len(rows(engine, "SELECT FROM pg_replication_slots")) == keep
    if keep:
        assert "Stays with the kept snapshot" in said(capsys)
        snapshots.drop(engine, names(engine)[0], yes=True)
        assert "With it goes the replication slot s" in said(capsys)
        assert rows(engine, "SELECT FROM pg_replication_slots") == []


def test_a_slot_that_nobody_reads_is_named(engine: Embedded, capsys: pytest.CaptureFixture[str]) -> None:
    snapshots.take(engine, "one")
    ask(engine, "SELECT pg_create_logical_replication_slot('idle_one', 'test_decoding')")
    restore_room.restore(engine)
    assert "Is lost with the replaced database: the replication slot idle_one, which nobody reads" in said(capsys)
    assert rows(engine, "SELECT FROM pg_replication_slots") == []


@pytest.mark.parametrize("enabled", [False, True])
def test_a_subscription_is_named_and_keeps_no_room(
    engine: Embedded, capsys: pytest.CaptureFixture[str], enabled: bool
) -> None:
    snapshots.take(engine, "one")
    ask(engine, "CREATE DATABASE publisher", "postgres")
    ask(engine, "CREATE PUBLICATION p", "publisher")
    ask(engine, "SELECT pg_create_logical_replication_slot('sub', 'pgoutput')", "publisher")
    url = replace(engine.endpoint(), database="publisher").url(masked=False)
    options = f"create_slot = false, slot_name = sub, enabled = {enabled}"
    ask(engine, f"""CREATE SUBSCRIPTION "a b" CONNECTION '{url}' PUBLICATION p WITH ({options})""")
    if enabled:
        with pytest.raises(Refused, match="nothing was touched"):
            restore_room.restore(engine)
        assert rows(engine, "SELECT subenabled FROM pg_subscription") == [(True,)]
    restore_room.restore(engine, yes=enabled)
    assert '"a b"' in said(capsys)
    assert rows(engine, "SELECT FROM pg_subscription") == []
    assert ours(engine) == ["stack-snapshot", "stack-spare"]
    assert rows(engine, "SELECT slot_name FROM pg_replication_slots") == [("sub",)]  # as was said


def test_prepared_transactions_are_named_before_anything_is_done(engine: Embedded) -> None:
    snapshots.take(engine, "one")
    prepare(engine, "convex_poc", "x y''z")
    with login(engine) as session:
        with pytest.raises(Refused, match="prepared transaction x y'z of postgres"):
            snapshots.take(engine, "two")
        with pytest.raises(Refused, match="prepared transaction x y'z of postgres") as refused:
            restore_room.restore(engine)
        assert session.execute("SELECT 1").fetchone() == (1,)
    cure = re.search("`.*?`", str(refused.value))
    assert cure
    typed(engine, cure[0])
    restore_room.restore(engine)
    assert names(engine) == ["one"]


# -- words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message", ["two\nlines", "\x1b[2J", "\x07", "a\rb", "\u202e", "\x9b31m", "\udc80", "a\u2028b"]
)
def test_a_message_that_cannot_be_shown_is_refused(engine: Embedded, message: str) -> None:
    with pytest.raises(Refused, match="Nothing was done"):
        snapshots.take(engine, "one", message=message)
    assert ours(engine) == []


def test_no_program_or_name_steers_the_terminal(engine: Embedded, capsys: pytest.CaptureFixture[str]) -> None:
    role, database = "bad\x1b[31mrole", "bad\x1b]0;title\x07base"
    with login(engine, "postgres") as session:
        session.execute(sql.SQL("CREATE ROLE {} SUPERUSER LOGIN").format(sql.Identifier(role)))
        session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    other = Embedded(replace(engine.settings, database=database), engine.root)
    try:
        with login(engine, database) as session:
            session.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(role)))
            snapshots.take(other, "one")
        snapshots.print_list(engine, as_json=False)
        restore_room.restore(other)
        with pytest.raises(Refused, match="no snapshot"):
            restore_room.restore(other, "x\x1by")
        out, err = capsys.readouterr()
        assert "bad" in out
        assert not {"\x1b", "\x07"} & {*out, *err}
    finally:
        ask(engine, f'DROP ROLE "{role}"', "postgres")


# -- who is waited for ------------------------------------------------------------------------------------


LOCKS = [
    "LOCK TABLE pg_database IN EXCLUSIVE MODE",
    "COMMENT ON DATABASE convex_poc IS 'x'",
    "ALTER DATABASE convex_poc CONNECTION LIMIT 50",
    "SELECT pg_advisory_lock(22444)",
    "LOCK TABLE pg_shdescription IN SHARE MODE",
]


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("command", ["snapshot", "restore", "drop"])
def test_whom_it_waits_for_is_said(
    engine: Embedded, capsys: pytest.CaptureFixture[str], lock: str, command: str
) -> None:
    snapshots.take(engine, "one")
    said(capsys)
    failed: list[StackError] = []

    def go() -> None:
        try:
            if command == "snapshot":
                snapshots.take(engine, "two")
            elif command == "restore":
                restore_room.restore(engine)
            else:
                snapshots.drop(engine, "one", yes=True)
        except StackError as error:
            failed.append(error)

    with login(engine, "postgres", application_name="in the way") as holder:
        holder.execute("BEGIN")
        holder.execute(lock.encode())
        thread = threading.Thread(target=go, daemon=True)
        thread.start()
        thread.join(4)
        waited, pid = thread.is_alive(), holder.info.backend_pid
        words = said(capsys)
        holder.execute("ROLLBACK")
        holder.execute("SELECT pg_advisory_unlock_all()")
    thread.join(30)
    assert not thread.is_alive()
    assert not failed
    if waited:
        assert f"Waiting in the server for pid {pid} (in the way, user postgres" in words
        assert words.count("Waiting in the server") == 1
    else:
        assert (lock, command) in [(LOCKS[1], "drop"), (LOCKS[2], "drop"), (LOCKS[2], "snapshot")]


def test_a_session_that_does_not_end_is_named_while_and_after(
    engine: Embedded, capsys: pytest.CaptureFixture[str]
) -> None:
    with login(engine, application_name="stubborn") as session:
        os.kill(session.info.backend_pid, signal.SIGSTOP)
        try:
            with pytest.raises(StackError, match=rf"In the way: pid {session.info.backend_pid} \(stubborn"):
                snapshots.take(engine, "one")
            assert f"Waiting in the server for pid {session.info.backend_pid} (stubborn" in said(capsys)
        finally:
            os.kill(session.info.backend_pid, signal.SIGCONT)
    snapshots.take(engine, "one")


def test_a_standby_that_does_not_confirm_is_named(engine: Embedded, capsys: pytest.CaptureFixture[str]) -> None:
    ask(engine, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "postgres")
    ask(engine, "SELECT pg_reload_conf()", "postgres")
    thread = threading.Thread(target=lambda: snapshots.take(engine, "one"), daemon=True)
    thread.start()
    try:
        thread.join(5)
        assert thread.is_alive()
        assert "Waiting in the server for the server itself (SyncRep)" in said(capsys)
    finally:
        with login(engine, "postgres") as session:
            session.execute("SET synchronous_commit = local")
            session.execute("ALTER SYSTEM RESET synchronous_standby_names")
            session.execute("SELECT pg_reload_conf()")
    thread.join(30)
    assert names(engine) == ["one"]


def test_a_lock_that_no_login_passes_is_explained(
    engine: Embedded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = threading.Event()
    watch = waits._watch

    def later(*args: Any) -> None:
        locked.wait(20)
        watch(*args)

    monkeypatch.setattr(waits, "_watch", later)  # its login must come after the lock, however slow this machine is
    with login(engine, "postgres") as holder, login(engine, "postgres") as first:
        first.execute("SELECT pg_advisory_lock(22444)")
        thread = threading.Thread(target=lambda: snapshots.take(engine, "one"), daemon=True)
        thread.start()
        deadline = time.monotonic() + 20
        waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
        while first.execute(waiting).fetchone() != (True,):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        holder.execute("BEGIN")
        holder.execute("LOCK TABLE pg_database")
        locked.set()
        with pytest.raises(StackError, match=r"timeout expired\n.*locked pg_database.*`invoke restart postgres`"):
            snapshots.take(engine, "two")
        told = ""
        while "cannot be asked, since a second login fails: connection" not in told:
            assert time.monotonic() < deadline + 20, told
            time.sleep(0.05)
            told += said(capsys)
        holder.execute("ROLLBACK")
    thread.join(30)
    assert names(engine) == ["one"]


def test_only_who_was_there_before_the_lock_is_ended(engine: Embedded) -> None:
    (oid,) = ask(engine, "SELECT oid FROM pg_database WHERE datname = 'convex_poc'", "postgres")
    done = threading.Event()
    with login_room.administrator(engine, "x") as cluster, login(engine) as session:
        thread = threading.Thread(target=cluster._keep_ending, args=(oid, done))
        thread.start()
        try:
            cluster.rows("SELECT pg_sleep(0.5)")  # at work, and without the lock
            assert session.execute("SELECT 1").fetchone() == (1,)
            with cluster.transaction():
                cluster.run("COMMENT ON DATABASE {} IS 'x'", "convex_poc")  # another lock, which lets logins pass
                cluster.rows("SELECT pg_sleep(0.5)")
                assert session.execute("SELECT 1").fetchone() == (1,)
        finally:
            done.set()
            thread.join()
