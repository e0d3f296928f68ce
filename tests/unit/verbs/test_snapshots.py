"""Snapshots on a real PostgreSQL 17."""

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import sql

from stack.engines.embedded.engine import Embedded
from stack.engines.external import External
from stack.ground import settings
from stack.ground.errors import Refused, StackError
from stack.verbs import facts, snapshots, spares, store, up
from stack.verbs import names as names_room
from stack.verbs import restore as restore_room
from tests.unit.conftest import embedded

pytestmark = [pytest.mark.xdist_group("snapshots"), pytest.mark.slow]  # they share a server

LIMIT = 20.0
"""Seconds in which the background must have done its work."""


@pytest.fixture(scope="module")
def server(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with embedded(programs, tmp_path_factory.mktemp("snapshots")) as made:
        up.bring_up(made, 30, pull=False, wait=True)
        ask(made, "ALTER SYSTEM SET fsync = off")  # no power is cut here, and each copy is synced twice
        ask(made, "SELECT pg_reload_conf()")
        yield made


@pytest.fixture
def engine(server: Embedded, monkeypatch: pytest.MonkeyPatch) -> Embedded:
    """The server with an empty database and no snapshots; what runs in the background does so at once."""
    monkeypatch.setattr(spares, "go_on_in_background", spares.keep_ready)
    with psycopg.connect(server.endpoint().url(masked=False), dbname="postgres", autocommit=True) as beside:
        for (name,) in beside.execute("SELECT datname FROM pg_database WHERE datname !~ '^(postgres|template.)$'"):
            beside.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        beside.execute("CREATE DATABASE convex_poc")
    return server


def ask(engine: Embedded, sql: str) -> list[object]:
    with psycopg.connect(engine.endpoint().url(masked=False), autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        return [row[0] for row in cursor] if cursor.description else []


def databases(engine: Embedded) -> set[str]:
    """The kinds of databases in the cluster, but for what `undo` brings back."""
    found = ask(engine, "SELECT datname FROM pg_database WHERE datname NOT LIKE 'stack-undo-%'")
    return {re.sub("[-_][0-9a-f]{32}$", "", str(name)) for name in found}


def names(engine: Embedded) -> list[str]:
    return [each.name for each in snapshots.listed(engine)]


def test_what_was_changed_since_is_undone(engine: Embedded) -> None:
    ask(engine, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    snapshots.take(engine, "before")
    ask(engine, "DROP TABLE kept")
    restore_room.restore(engine)
    assert ask(engine, "SELECT count(*) FROM kept") == [1000]
    ask(engine, "UPDATE kept SET n = 0")
    restore_room.restore(engine, "before")
    assert ask(engine, "SELECT sum(n) FROM kept") == [500500]
    assert databases(engine) == {"convex_poc", "postgres", "template0", "template1", "stack-snapshot", "stack-spare"}


def test_the_server_need_not_write_out_all_it_has_for_a_small_copy(engine: Embedded) -> None:
    ask(engine, "CREATE TABLE small AS SELECT generate_series(1, 1000) AS n")
    asked = "SELECT num_requested FROM pg_stat_checkpointer"
    before = ask(engine, asked)
    with spares.administrator(engine, "invoke") as cluster:
        made = spares.make_copy(engine, cluster, "convex_poc", "it", 0)
        assert ask(engine, asked) == before
        cluster.copy(made, "copied", limit=-1, comment="")
        cluster.allow("copied", anybody=True, limit=-1)
    with psycopg.connect(engine.endpoint().url(masked=False), dbname="copied") as copied:
        assert copied.execute("SELECT count(*) FROM small").fetchall() == [(1000,)]
    ask(engine, "CREATE TABLE large AS SELECT n, repeat(md5(n::text), 60) FROM generate_series(1, 15000) AS n")
    with spares.administrator(engine, "invoke") as cluster:
        spares.make_copy(engine, cluster, "convex_poc", "it", 0)
    assert ask(engine, asked) != before


def test_settings_grants_and_comment_come_along(engine: Embedded) -> None:
    ask(engine, "DROP ROLE IF EXISTS reader")
    ask(engine, "CREATE ROLE reader")
    ask(engine, """ALTER DATABASE convex_poc SET search_path = "$user", 'a "b', public""")
    ask(engine, "ALTER ROLE reader IN DATABASE convex_poc SET work_mem = '9MB'")
    ask(engine, "ALTER DATABASE convex_poc CONNECTION LIMIT 7")
    ask(engine, "REVOKE TEMPORARY ON DATABASE convex_poc FROM PUBLIC")
    ask(engine, "GRANT CONNECT, CREATE ON DATABASE convex_poc TO reader WITH GRANT OPTION")
    ask(engine, "ALTER DATABASE convex_poc OWNER TO reader")
    ask(engine, "COMMENT ON DATABASE convex_poc IS 'it''s mine'")
    facts = """
        SELECT concat_ws('; ', datconnlimit, datdba::regrole, shobj_description(oid, 'pg_database'), datallowconn,
          (SELECT string_agg(acl::text, ',' ORDER BY acl::text) FROM unnest(datacl) AS acl),
          (SELECT string_agg(setrole::regrole || setconfig::text, ',' ORDER BY setrole) FROM pg_db_role_setting
           WHERE setdatabase = d.oid))
        FROM pg_database AS d WHERE datname = 'convex_poc'"""
    before = ask(engine, facts)
    snapshots.take(engine)
    ask(engine, "ALTER DATABASE convex_poc RESET search_path")
    ask(engine, "COMMENT ON DATABASE convex_poc IS NULL")
    restore_room.restore(engine)
    assert ask(engine, facts) == before
    for word in ("7; reader; it's mine; t", "reader=C*Tc*/reader", '\\"$user\\"', "work_mem=9MB"):
        assert word in str(before[0])
    ask(engine, "ALTER DATABASE convex_poc OWNER TO postgres")
    ask(engine, "DROP OWNED BY reader")


def test_sessions_are_told_ended_and_let_in_again(engine: Embedded, capsys: pytest.CaptureFixture[str]) -> None:
    url = engine.endpoint().url(masked=False)
    with psycopg.connect(url, application_name="my app") as session:
        snapshots.take(engine)
        assert "Ending 1 session on convex_poc: my app." in capsys.readouterr().err
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    assert ask(engine, "SELECT 1") == [1]


def test_an_application_that_comes_back_at_once_stops_nothing(engine: Embedded) -> None:
    done = threading.Event()
    logins = []

    def insist() -> None:
        while not done.is_set():
            try:
                with psycopg.connect(engine.endpoint().url(masked=False), autocommit=True) as session:
                    logins.append(1)
                    while not done.is_set():
                        session.execute("SELECT pg_sleep(0.001)")
            except psycopg.Error:
                pass

    threads = [threading.Thread(target=insist) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        snapshots.take(engine, "busy")
        for _ in range(5):
            restore_room.restore(engine, "busy")
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert len(logins) > 8
    assert names(engine) == ["busy"]


def test_a_copy_does_not_hang_on_what_the_user_has_set_for_all_sessions(engine: Embedded) -> None:
    ask(engine, "ALTER ROLE postgres SET statement_timeout = 1")
    ask(engine, "ALTER ROLE postgres SET default_transaction_read_only = on")
    try:
        snapshots.take(engine, "one")
        assert names(engine) == ["one"]
    finally:
        options = "-c default_transaction_read_only=off -c statement_timeout=0"
        with psycopg.connect(engine.endpoint().url(masked=False), options=options, autocommit=True) as session:
            session.execute("ALTER ROLE postgres RESET ALL")


@pytest.mark.parametrize(
    "name",
    ["plain", "it's", '"; DROP DATABASE convex_poc; --', "🎉 a party", "é", "a" * 200, "-x", "%s", "postgres", "..",
     "convex_poc", "stack-snapshot-0123456789abcdef0123456789abcdef", "\\", "$(touch /tmp/no)", "{}"],
)  # fmt: skip
def test_what_a_person_types_is_only_a_name(engine: Embedded, name: str) -> None:
    ask(engine, "CREATE TABLE kept ()")
    snapshots.take(engine, name, message=name)
    assert [(each.name, each.message) for each in snapshots.listed(engine)] == [(name, name)]
    restore_room.restore(engine, name)
    assert ask(engine, "SELECT count(*) FROM kept") == [0]
    snapshots.drop(engine, name, yes=True)
    assert databases(engine) == {"convex_poc", "postgres", "template0", "template1"}


@pytest.mark.parametrize("name", ["a" * 201, "two\nlines", " edge", "edge ", "\x00", "\u202e"])
def test_what_cannot_be_shown_is_no_name(engine: Embedded, name: str) -> None:
    with pytest.raises(Refused, match="Nothing was done"):
        snapshots.take(engine, name)
    assert names(engine) == []


def test_one_name_however_it_was_typed(engine: Embedded) -> None:
    snapshots.take(engine, "e\u0301")
    with pytest.raises(Refused, match="already"):
        snapshots.take(engine, "\u00e9")
    restore_room.restore(engine, "e\u0301")


def test_a_taken_name_is_refused_unless_it_is_replaced(engine: Embedded) -> None:
    ask(engine, "CREATE TABLE first ()")
    snapshots.take(engine, "one")
    ask(engine, "ALTER TABLE first RENAME TO second")
    with pytest.raises(Refused, match="--replace"):
        snapshots.take(engine, "one")
    restore_room.restore(engine)
    assert ask(engine, "SELECT relname FROM pg_class WHERE relname IN ('first', 'second')") == ["first"]
    ask(engine, "ALTER TABLE first RENAME TO second")
    snapshots.take(engine, "one", overwrite=True)
    ask(engine, "DROP TABLE second")
    restore_room.restore(engine)
    assert ask(engine, "SELECT relname FROM pg_class WHERE relname IN ('first', 'second')") == ["second"]
    assert names(engine) == ["one"]


def test_restore_takes_the_newest_and_can_keep_what_it_replaces(engine: Embedded) -> None:
    for state in ("one", "two"):
        ask(engine, f"CREATE TABLE {state} ()")
        snapshots.take(engine, state)
    ask(engine, "CREATE TABLE three ()")
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    restore_room.restore(engine, "one", keep=True)
    assert ask(engine, tables) == ["one"]
    kept = snapshots.listed(engine)[0]
    assert kept.message == "replaced by one"
    restore_room.restore(engine)
    assert ask(engine, tables) == ["one", "three", "two"]
    restore_room.restore(engine, "two")
    assert ask(engine, tables) == ["one", "two"]
    assert len(names(engine)) == 3


def test_a_name_that_is_not_there_is_refused_with_those_that_are(engine: Embedded) -> None:
    with pytest.raises(Refused, match="`invoke snapshot` takes one"):
        restore_room.restore(engine)
    snapshots.take(engine, "one")
    for wrong in ("two", "on"):
        with pytest.raises(Refused, match="There are: one"):
            restore_room.restore(engine, wrong)
        with pytest.raises(Refused, match="There are: one"):
            snapshots.drop(engine, wrong, yes=True)
    with pytest.raises(Refused, match="Which"):
        snapshots.drop(engine, "", yes=True)
    with pytest.raises(Refused, match="--yes"):
        snapshots.drop(engine, "one", yes=False)
    assert names(engine) == ["one"]


def test_databases_do_not_share_names(engine: Embedded) -> None:
    other = Embedded(replace(engine.settings, database="other"), engine.root)
    ask(engine, "CREATE DATABASE other")
    ask(engine, "CREATE TABLE mine ()")
    for each in (engine, other):
        snapshots.take(each, "one")
    snapshots.drop(other, "one", yes=True)
    with pytest.raises(Refused, match="no snapshot of other"):
        restore_room.restore(other)
    restore_room.restore(engine, "one")
    assert ask(engine, "SELECT count(*) FROM mine") == [0]


def test_the_users_own_databases_are_not_ours(engine: Embedded) -> None:
    theirs = ("stack-snapshot-mine", "stack-doomed-1", "stack_making_", "Stack-doomed-" + "0" * 32)
    for name in theirs:
        ask(engine, f'CREATE DATABASE "{name}"')
    snapshots.take(engine, "one")
    restore_room.restore(engine)
    assert set(theirs) <= set(ask(engine, "SELECT datname FROM pg_database"))
    assert names(engine) == ["one"]


def test_a_snapshot_whose_comment_was_changed_is_not_lost(engine: Embedded) -> None:
    snapshots.take(engine, "one")
    (stored,) = ask(engine, "SELECT datname FROM pg_database WHERE datname LIKE 'stack-snapshot-%'")
    for text in ("NULL", "'mine'", "'[]'", """'{"name": 1}'"""):
        ask(engine, f'COMMENT ON DATABASE "{stored}" IS {text}')
        assert names(engine) == [stored]


def test_the_database_named_postgres_can_be_saved_too(engine: Embedded) -> None:
    other = Embedded(replace(engine.settings, database="postgres"), engine.root)
    ask(other, "CREATE TABLE kept ()")
    snapshots.take(other, "one")
    ask(other, "DROP TABLE kept")
    restore_room.restore(other)
    ask(other, "DROP TABLE kept")
    snapshots.drop(other, "one", yes=True)


def test_a_database_that_somebody_dropped_comes_back(engine: Embedded) -> None:
    ask(engine, "CREATE TABLE kept ()")
    snapshots.take(engine, "one")
    with psycopg.connect(engine.endpoint().url(masked=False), dbname="postgres", autocommit=True) as beside:
        beside.execute("DROP DATABASE convex_poc")
    with pytest.raises(StackError, match="There is no database 'convex_poc'"):
        snapshots.take(engine, "two")
    restore_room.restore(engine)
    assert ask(engine, "SELECT count(*) FROM kept") == [0]


class Disk(NamedTuple):
    free: int


def test_without_room_nothing_is_done(engine: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots.take(engine, "one")
    assert "stack-spare" in databases(engine)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(50_000_000))
    with pytest.raises(StackError, match="no room"):
        snapshots.take(engine, "two")
    assert names(engine) == ["one"]
    assert "stack-spare" not in databases(engine)  # given up to make room
    with pytest.raises(StackError, match="no room"):
        restore_room.restore(engine, "one")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(spares.RESERVE // 2))
    restore_room.restore(engine, "one")
    assert "stack-spare" not in databases(engine)  # low, though not too low to restore


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_disk_that_fills_up_in_the_middle_of_a_copy(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with embedded(programs, tmp_path) as engine:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=150m", "tmpfs", tmp_path / "data"], check=True)
        try:
            up.bring_up(engine, 30, pull=False, wait=True)
            ask(engine, "CREATE TABLE kept AS SELECT n, repeat(md5(n::text), 60) FROM generate_series(1, 20000) AS n")
            ask(engine, "CHECKPOINT")
            monkeypatch.setattr(spares, "room_left", lambda *_: 10**12)  # what is said to be free may go meanwhile
            monkeypatch.setattr(spares, "go_on_in_background", spares.keep_ready)
            with pytest.raises(StackError, match="No space left on device"):
                snapshots.take(engine, "too big")
            assert ask(engine, "SELECT count(*) FROM kept") == [20000]
            assert databases(engine) == {"convex_poc", "postgres", "template0", "template1"}
            ask(engine, "DELETE FROM kept WHERE n > 1000")
            ask(engine, "VACUUM FULL kept")
            snapshots.take(engine, "it fits")
            ask(engine, "DROP TABLE kept")
            restore_room.restore(engine)
            assert ask(engine, "SELECT count(*) FROM kept") == [1000]
        finally:
            engine.stop()
            subprocess.run(["umount", tmp_path / "data"], check=True)


def test_no_spare_is_made_when_none_is_wanted(engine: Embedded) -> None:
    snapshots.take(engine, "one")
    without = Embedded(replace(engine.settings, spare=False), engine.root)
    assert "stack-spare" in databases(engine)
    restore_room.restore(without)
    assert "stack-spare" not in databases(engine)
    restore_room.restore(without)
    assert names(engine) == ["one"]


def test_only_the_latest_has_a_spare(engine: Embedded) -> None:
    snapshots.take(engine, "one")
    snapshots.take(engine, "two")
    assert {each.name: each.spare for each in snapshots.listed(engine)} == {"one": "none", "two": "ready"}
    restore_room.restore(engine, "one")
    assert {each.name: each.spare for each in snapshots.listed(engine)} == {"one": "ready", "two": "none"}


def test_what_a_crash_left_is_cleared_by_the_next_command(engine: Embedded) -> None:
    for kind in (store.MAKING, store.DOOMED):
        ask(engine, f'CREATE DATABASE "{kind}{"0" * 32}" CONNECTION LIMIT {facts.MARK}')
    snapshots.listed(engine)
    assert databases(engine) == {"convex_poc", "postgres", "template0", "template1"}


def test_a_spare_that_a_killed_server_has_dropped_by_half_is_none(engine: Embedded) -> None:
    ask(engine, "CREATE TABLE kept ()")
    snapshots.take(engine, "one")
    half = "UPDATE pg_database SET datconnlimit = -2 WHERE datname LIKE 'stack-spare-%'"  # how PostgreSQL marks it
    ask(engine, half)
    ask(engine, "DROP TABLE kept")
    restore_room.restore(engine)
    assert ask(engine, "SELECT count(*) FROM kept") == [0]
    ask(engine, half)
    assert snapshots.listed(engine)[0].spare == "ready"  # made anew
    assert databases(engine) == {"convex_poc", "postgres", "template0", "template1", "stack-snapshot", "stack-spare"}
    restore_room.restore(engine)


def test_what_a_killed_command_still_does_in_the_server_is_ended(engine: Embedded) -> None:
    beside = replace(engine.endpoint(), options={"application_name": store.WORK}, database="postgres")
    with psycopg.connect(beside.url(masked=False), autocommit=True) as orphan:
        orphan.execute("SELECT pg_advisory_lock(%s)", [store.MAKER])
        snapshots.take(engine, "one")
        with pytest.raises(psycopg.OperationalError):
            orphan.execute("SELECT 1")


def test_restore_waits_for_the_spare_that_is_being_prepared(
    engine: Embedded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spares, "go_on_in_background", lambda _: None)
    snapshots.take(engine, "one")
    (digits,) = ask(engine, "SELECT right(datname, 32) FROM pg_database WHERE datname LIKE 'stack-snapshot-%'")
    endpoint = engine.endpoint()
    beside = replace(endpoint, options={"application_name": f"{store.COPY}{digits}"}, database="postgres")
    with psycopg.connect(beside.url(masked=False), autocommit=True) as keeper:
        keeper.execute("SELECT pg_advisory_lock(%s)", [store.MAKER])
        waiting = threading.Thread(target=restore_room.restore, args=(engine,), daemon=True)
        waiting.start()
        time.sleep(0.3)
        assert waiting.is_alive()
        marked = f"ALLOW_CONNECTIONS false CONNECTION LIMIT {facts.MARK}"
        spare = f'CREATE DATABASE "stack-spare-{digits}" TEMPLATE "stack-snapshot-{digits}" {marked}'
        keeper.execute(spare.encode())
    waiting.join(LIMIT)
    said = capsys.readouterr().err
    assert "being prepared" in said
    assert "made first" not in said


@pytest.mark.parametrize("keep", [False, True])
def test_a_session_that_ends_at_any_statement_leaves_old_or_new(
    engine: Embedded, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    ask(engine, "CREATE TABLE kept ()")
    snapshots.take(engine, "one")
    execute = psycopg.Connection.execute
    for statements in range(1, 100):
        left = statements

        def end(self: psycopg.Connection, *words: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                self.close()
            return execute(self, *words)

        ask(engine, "CREATE TABLE IF NOT EXISTS new ()")
        with monkeypatch.context() as patched, suppress(StackError):
            patched.setattr(psycopg.Connection, "execute", end)
            restore_room.restore(engine, "one", keep=keep)
        found = ask(engine, tables)
        assert found in (["kept"], ["kept", "new"])
        assert "one" in names(engine)
        if left > 0:  # it has come to its end
            assert found == ["kept"]
            assert statements > 15
            return
    pytest.fail("restore never came to its end")


def test_the_names_are_there_when_the_server_is_not(engine: Embedded) -> None:
    snapshots.take(engine, "one two")
    snapshots.take(engine, "three")
    file = names_room.names_of(engine.home.directory)
    assert file.read_text() == "three\none two\n"
    snapshots.drop(engine, "three", yes=True)
    assert file.read_text().startswith("one two\n\tundo: the snapshot three before `invoke drop-snapshot three`, ")


def test_each_carries_what_a_person_asks_later(engine: Embedded) -> None:
    began = time.time()
    snapshots.take(engine, "one", message="before the migration")
    (found,) = snapshots.listed(engine)
    assert began <= found.taken <= time.time()
    assert (found.database, found.message) == ("convex_poc", "before the migration")
    assert found.server_version.startswith("17.")
    assert found.size == ask(engine, f"SELECT pg_database_size('{found.stored}')")[0]
    assert json.loads(found.facts())["name"] == "one"


def test_a_server_that_others_use_is_left_alone() -> None:
    url = "postgresql://me@127.0.0.1:1/app"
    external = External(settings.load(Path("/nonexistent"), {"STACK_ENGINE": "external", "DATABASE_URL": url}))
    with pytest.raises(Refused, match="invoke dump"):
        snapshots.take(external)
