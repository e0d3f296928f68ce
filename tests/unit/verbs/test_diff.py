"""What has changed since a snapshot, on a real PostgreSQL 17."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from stack.engines.embedded.engine import Embedded
from stack.engines.external import External
from stack.ground import settings
from stack.ground.errors import Refused, StackError
from stack.verbs import diff, snapshots, spares, up, visit
from stack.verbs import restore as restore_room
from tests.unit.conftest import embedded

pytestmark = pytest.mark.xdist_group("diff")  # they share a server

SCHEMA = """
CREATE TABLE kept (id int PRIMARY KEY, name text, a int, b int, c int, d int);
CREATE TABLE "My table" AS SELECT generate_series(1, 3) AS n;
CREATE TABLE parts (n int) PARTITION BY RANGE (n);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
INSERT INTO parts VALUES (1), (2);
INSERT INTO kept SELECT generate_series(1, 5);
"""


@pytest.fixture(scope="module")
def server(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with embedded(programs, tmp_path_factory.mktemp("diff"), STACK_SPARE="0") as made:
        up.bring_up(made, 30, pull=False, wait=True)
        yield made


@pytest.fixture
def engine(server: Embedded, monkeypatch: pytest.MonkeyPatch) -> Embedded:
    """The server with a database of a few tables, and a snapshot of it."""
    monkeypatch.setattr(spares, "go_on_in_background", spares.keep_ready)
    with psycopg.connect(server.endpoint().url(masked=False), dbname="postgres", autocommit=True) as beside:
        beside.execute("DROP DATABASE IF EXISTS convex_poc WITH (FORCE)")
        beside.execute("CREATE DATABASE convex_poc")
    ask(server, SCHEMA)
    snapshots.take(server, "before", overwrite=True)
    return server


def ask(engine: Embedded, sql: str, database: str = "convex_poc") -> list[object]:
    with psycopg.connect(engine.endpoint().url(masked=False), dbname=database, autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        return [row[0] for row in cursor] if cursor.description else []


def rules(engine: Embedded) -> list[object]:
    """All that the server knows of its databases."""
    query = "SELECT (to_jsonb(d) - 'datfrozenxid' - 'datminmxid')::text || shobj_description(oid, 'pg_database')"
    return ask(engine, f"{query} FROM pg_database AS d ORDER BY datname")


def compare(engine: Embedded, name: str = "", *, data: bool = False, as_json: bool = False) -> bool:
    return diff.diff(engine, name, data=data, as_json=as_json)


def test_without_a_change_nothing_is_printed(engine: Embedded, capsys: pytest.CaptureFixture[str]) -> None:
    before = rules(engine)
    assert not compare(engine)
    assert not compare(engine, "before", data=True)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("The schema is that of the snapshot before, taken ") == 2
    assert "3 tables have as many rows as before." in told.err
    assert rules(engine) == before


def test_a_changed_schema_is_a_unified_diff(engine: Embedded, capsys: pytest.CaptureFixture[str]) -> None:
    ask(engine, "ALTER TABLE kept ALTER d TYPE bigint; CREATE INDEX by_name ON kept (name)")
    assert compare(engine)
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0].startswith("--- snapshot before\t20")
    assert lines[1] == "+++ convex_poc now"
    assert [line for line in lines[2:] if line[0] in "+-" and line[1:]][:2] == ["-    d integer", "+    d bigint"]
    assert any(line.startswith("@@ ") and line.endswith(" TABLE public.kept") for line in lines)
    assert "+CREATE INDEX by_name ON public.kept USING btree (name);" in lines
    assert "restrict" not in told.out
    assert "That has changed since the snapshot before, taken " in told.err
    assert "`invoke restore before` brings it back" in told.err
    restore_room.restore(engine, "before")  # the cure
    assert not compare(engine)


def test_rows_are_counted_when_that_is_asked(engine: Embedded, capsys: pytest.CaptureFixture[str]) -> None:
    ask(engine, 'DELETE FROM kept WHERE id > 3; DROP TABLE "My table"; CREATE TABLE new AS SELECT 1; ANALYZE')
    ask(engine, "INSERT INTO parts VALUES (3); CREATE SCHEMA s; CREATE TABLE s.empty ()")
    assert compare(engine, data=True)
    shown = capsys.readouterr().out.partition("TABLE  ")[2].splitlines()
    assert [line.split() for line in shown[1:]] == [
        ['public."My', 'table"', "3"], ["public.kept", "5", "3"], ["public.new", "1"], ["public.parts_1", "2", "3"],
        ["s.empty", "0"],
    ]  # fmt: skip


def test_rows_alone_are_a_change_when_they_are_counted(engine: Embedded) -> None:
    ask(engine, "INSERT INTO kept VALUES (6)")
    assert not compare(engine)
    assert compare(engine, data=True)


def test_json_is_for_programs(engine: Embedded, capsys: pytest.CaptureFixture[str]) -> None:
    assert not compare(engine, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["snapshot"], told["equal"], told["schema"], told["tables"]) == ("before", True, "", None)
    ask(engine, "INSERT INTO kept VALUES (6); CREATE TABLE new ()")
    assert compare(engine, as_json=True, data=True)
    told = json.loads(capsys.readouterr().out)
    assert not told["equal"]
    assert "+CREATE TABLE public.new (" in told["schema"]
    assert {"table": "public.kept", "before": 5, "after": 6} in told["tables"]
    assert {"table": "public.new", "before": None, "after": 0} in told["tables"]


def test_a_snapshot_that_is_not_there_is_refused(engine: Embedded) -> None:
    with pytest.raises(Refused, match="There are: before"):
        compare(engine, "behind")


def test_elsewhere_there_are_no_snapshots(tmp_path: Path) -> None:
    there = settings.load(tmp_path, {"STACK_ENGINE": "external", "DATABASE_URL": "postgresql://u@127.0.0.1:1/d"})
    with pytest.raises(Refused, match="is run elsewhere"):
        diff.diff(External(there, tmp_path), "", data=False, as_json=False)


def test_what_pg_dump_says_is_told(engine: Embedded) -> None:
    ask(engine, "ALTER DATABASE convex_poc RENAME TO gone", "postgres")
    with pytest.raises(StackError, match="The database cannot be compared"):
        compare(engine)
    assert not is_open(engine)


# -- the door ---------------------------------------------------------------------------------------------------


def is_open(engine: Embedded) -> bool:
    (found,) = ask(engine, "SELECT datallowconn FROM pg_database WHERE datname LIKE 'stack-snapshot-%'", "postgres")
    return bool(found)


def wait_until_shut(engine: Embedded, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while is_open(engine):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def slow(engine: Embedded, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Client programs that begin when they are told to; until then the snapshot is open."""
    begin, client = threading.Event(), Embedded.client

    def late(self: Embedded, *args: str, **options: object) -> object:
        begin.wait(20)
        return client(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Embedded, "client", late)
    return begin


def test_who_comes_in_meanwhile_is_ended_and_the_snapshot_is_shut(engine: Embedded, slow: threading.Event) -> None:
    answers: list[bool] = []
    at_work = threading.Thread(target=lambda: answers.append(compare(engine)))
    at_work.start()
    deadline = time.monotonic() + 10
    while not is_open(engine):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (stored,) = ask(engine, "SELECT datname FROM pg_database WHERE datname LIKE 'stack-snapshot-%'")
    with psycopg.connect(engine.endpoint().url(masked=False), dbname=str(stored), autocommit=True) as stranger:
        slow.set()
        at_work.join()
        assert answers == [False]
        with pytest.raises(psycopg.OperationalError, match="administrator command"):
            stranger.execute("SELECT 1")
    assert not is_open(engine)


def test_a_program_that_never_comes_leaves_it_shut(
    engine: Embedded, slow: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visit, "PATIENCE", 0.2)
    threading.Timer(1, slow.set).start()
    with pytest.raises(StackError, match="not currently accepting connections"):
        compare(engine)
    assert not is_open(engine)


def test_it_is_shut_though_somebody_ends_the_one_who_keeps_the_door(engine: Embedded, slow: threading.Event) -> None:
    at_work = threading.Thread(target=lambda: compare(engine))
    at_work.start()
    deadline = time.monotonic() + 10
    while not is_open(engine):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    keeper = "application_name = 'invoke' AND query LIKE '%stack-snapshot%' AND state = 'active'"
    ask(engine, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {keeper}")
    slow.set()
    at_work.join()
    assert not is_open(engine)


def child(engine: Embedded, late: float = 0) -> "subprocess.Popen[bytes]":
    """A process that compares, and begins with it now; its client programs come `late`, in seconds."""
    code = "import sys; from tests.unit.verbs import test_diff; test_diff.run_here(*sys.argv[1:])"
    words = (engine.root, engine.settings.ports["POSTGRES_PORT"], engine.settings.bin_dir, late)
    made = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=settings.ROOT,
    )  # fmt: skip
    assert made.stdout
    made.stdout.readline()
    return made


def run_here(root: str, port: str, programs: str, late: str) -> None:
    its = {"POSTGRES_PORT": port, "POSTGRES_BIN_DIR": programs, "STACK_ENGINE": "embedded"}
    engine = Embedded(settings.load(Path(root), its), Path(root))
    compare(engine)  # so that everything is imported
    client = engine.client
    engine.client = lambda *args, **options: time.sleep(float(late)) or client(*args, **options)  # type: ignore
    print("begins", flush=True)
    compare(engine)


def test_killed_while_it_is_open_the_server_shuts_it(engine: Embedded) -> None:
    with child(engine, late=60) as at_work:
        deadline = time.monotonic() + 10
        while not is_open(engine):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        at_work.kill()
    wait_until_shut(engine, 2)
    assert not compare(engine)


@pytest.mark.parametrize("number", range(5))
def test_killed_at_any_moment_it_is_shut(engine: Embedded, number: int) -> None:
    with child(engine) as at_work:
        time.sleep(number * 0.04)
        at_work.kill()
    time.sleep(0.05)  # what it had sent is being read
    wait_until_shut(engine, 2)
    assert not compare(engine)


def test_what_a_killed_server_has_left_open_is_shut(engine: Embedded) -> None:
    (stored,) = ask(engine, "SELECT datname FROM pg_database WHERE datname LIKE 'stack-snapshot-%'")
    ask(engine, f'ALTER DATABASE "{stored}" ALLOW_CONNECTIONS true')
    assert not compare(engine)
    assert not is_open(engine)
