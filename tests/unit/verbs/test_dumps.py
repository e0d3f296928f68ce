"""Dump and load on a real PostgreSQL 17: every kind of file, all or nothing."""

import gzip
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stack.engines.embedded.engine import Embedded
from stack.engines.external import External
from stack.ground import settings
from stack.ground.errors import Refused, StackError
from stack.ground.run import Command
from stack.verbs import dump, load, spares, up
from tests.unit.conftest import ask, embedded

pytestmark = [pytest.mark.xdist_group("dumps"), pytest.mark.slow]  # they share a server

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CONTENT = "SELECT count(*) || '/' || sum(n) || '/' || (SELECT count(*) FROM pg_largeobject_metadata) FROM kept"
ZIP: dict[str, Callable[[bytes], bytes]] = {"plain": bytes, "gzip": gzip.compress, "zstd": zstd.compress}


@pytest.fixture(scope="module")
def server(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with embedded(programs, tmp_path_factory.mktemp("dumps")) as made:
        up.bring_up(made, 30, pull=False, wait=True)
        ask(made, "ALTER SYSTEM SET fsync = off")  # no power is cut here
        ask(made, "SELECT pg_reload_conf()")
        yield made


@pytest.fixture
def engine(server: Embedded, monkeypatch: pytest.MonkeyPatch) -> Embedded:
    """The server with a little of everything in its database; what runs in the background does so at once."""
    monkeypatch.setattr(spares, "in_background", lambda _: None)
    monkeypatch.setattr(spares, "go_on_in_background", spares.keep_ready)
    with psycopg.connect(server.endpoint().url(masked=False), dbname="postgres", autocommit=True) as beside:
        beside.execute("DROP DATABASE convex_poc WITH (FORCE)")
        beside.execute("CREATE DATABASE convex_poc")
    ask(server, "CREATE TABLE kept AS SELECT generate_series(1, 20000) AS n")
    ask(server, "ALTER TABLE kept ADD PRIMARY KEY (n)")
    ask(server, "CREATE VIEW seen AS SELECT * FROM kept")
    ask(server, "SELECT lo_create(0)")
    return server


def make_empty(engine: Embedded) -> None:
    ask(engine, "DROP TABLE kept CASCADE")
    ask(engine, "SELECT lo_unlink(oid) FROM pg_largeobject_metadata")


@pytest.fixture
def archive(engine: Embedded, tmp_path: Path) -> bytes:
    dump.dump(engine, str(tmp_path / "made.dump"))
    return (tmp_path / "made.dump").read_bytes()


def plain(engine: Embedded) -> bytes:
    command = engine.client("pg_dump")
    return subprocess.run(command.argv, check=True, capture_output=True).stdout


@pytest.fixture(params=["archive", "SQL"])
def dumped(request: pytest.FixtureRequest, engine: Embedded, archive: bytes) -> bytes:
    return archive if request.param == "archive" else plain(engine)


@pytest.mark.parametrize("clean", [False, True], ids=["into an empty one", "clean"])
@pytest.mark.parametrize("zipped", ZIP)
def test_what_was_dumped_comes_back(engine: Embedded, tmp_path: Path, dumped: bytes, zipped: str, clean: bool) -> None:
    before = ask(engine, CONTENT)
    file = tmp_path / "misleading.txt"
    file.write_bytes(ZIP[zipped](dumped))
    if clean:
        ask(engine, "UPDATE kept SET n = -n; CREATE TABLE another ()")
    else:
        make_empty(engine)
    load.load(engine, str(file), clean=clean, yes=True)
    assert ask(engine, CONTENT) == before
    assert ask(engine, "SELECT to_regclass('another')") is None


@pytest.mark.parametrize("clean", [False, True], ids=["into an empty one", "clean"])
@pytest.mark.parametrize("zipped", ZIP)
def test_what_is_cut_off_changes_nothing(
    engine: Embedded, tmp_path: Path, dumped: bytes, zipped: str, clean: bool
) -> None:
    whole = ZIP[zipped](dumped)
    file = tmp_path / "cut"
    before = ask(engine, CONTENT)
    if not clean:
        make_empty(engine)
    for part in (0.3, 0.9):
        file.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(StackError, match=r"as it was|Nothing was changed"):
            load.load(engine, str(file), clean=clean, yes=True)
    if clean:
        assert ask(engine, CONTENT) == before
    else:
        assert ask(engine, "SELECT to_regclass('kept')") is None


def test_sql_of_pg_dump_that_is_cut_off_between_statements_changes_nothing(engine: Embedded, tmp_path: Path) -> None:
    whole = plain(engine)
    (tmp_path / "cut.sql").write_bytes(whole[: whole.rindex(b"\n--\n-- Name: ")])
    with pytest.raises(StackError, match="the last line of a dump is missing"):
        load.load(engine, str(tmp_path / "cut.sql"), clean=True, yes=True)
    assert ask(engine, "SELECT count(*) FROM seen") == 20000


def test_a_dump_of_a_newer_server_is_refused(engine: Embedded, tmp_path: Path, archive: bytes) -> None:
    version = str(ask(engine, "SHOW server_version")).split()[0].encode()
    for content in (archive, plain(engine)):
        assert version in content[:1024]
        (tmp_path / "newer").write_bytes(content.replace(version, b"18" + version[2:], 1))
        with pytest.raises(Refused, match=r"from PostgreSQL 18\.\d+, and this server is 17"):
            load.load(engine, str(tmp_path / "newer"), clean=True, yes=True)
    assert ask(engine, "SELECT count(*) FROM kept") == 20000


@pytest.mark.parametrize("leave", ["kept", "a large object"])
def test_what_is_not_empty_is_refused(engine: Embedded, tmp_path: Path, archive: bytes, leave: str) -> None:
    if leave == "a large object":
        ask(engine, "DROP TABLE kept CASCADE")
    with pytest.raises(Refused, match=r"not empty.*--clean"):
        load.load(engine, str(tmp_path / "made.dump"), clean=False, yes=False)
    with pytest.raises(Refused, match="--yes"):
        load.load(engine, str(tmp_path / "made.dump"), clean=True, yes=False)


def test_a_refusal_waits_for_who_still_reads_the_file(
    engine: Embedded, tmp_path: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, failed = engine.client, list[object]()

    def slow(program: str, *args: str, **keywords: Any) -> Command:
        time.sleep(0.5 if program == "pg_restore" else 0)
        return client(program, *args, **keywords)

    monkeypatch.setattr(engine, "client", slow)
    monkeypatch.setattr(threading, "excepthook", failed.append)
    with pytest.raises(Refused, match=r"not empty.*--clean"):
        load.load(engine, str(tmp_path / "made.dump"), clean=False, yes=False)
    time.sleep(1)
    assert not failed


@pytest.mark.parametrize("content", [b"", b"hello", b"\x7fELF\0", b"SELECT 1;\nSELECT 1/0;\n"])
def test_what_is_no_dump_changes_nothing(engine: Embedded, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "no.dump").write_bytes(content)
    with pytest.raises(StackError, match=r"empty|neither|as it was"):
        load.load(engine, str(tmp_path / "no.dump"), clean=True, yes=True)
    assert ask(engine, "SELECT count(*) FROM kept") == 20000


@pytest.mark.parametrize(
    ("text", "saying"),
    [
        ("CREATE TABLE half ();\nCOMMIT;\nSELECT 1/0;", "some.sql:3: ERROR:  division by zero"),
        ("BEGIN;\nCREATE TABLE half ();\nCOMMIT;\nCREATE TABLE two ();\nSELECT 1/0;", "some.sql:5: ERROR:  division"),
        ("CREATE TABLE half ();\nBEGIN;\nCREATE TABLE two ();", "leaves a transaction open"),
        ("\\set AUTOCOMMIT off\nCREATE TABLE half ();", "leaves a transaction open"),
        ("BEGIN;\n\\set ON_ERROR_STOP off\nSELECT 1/0;\nCREATE TABLE half ();", "past an error"),
        ("CREATE TABLE half ();\n\\q\nCREATE TABLE two ();", r"the line \\q"),
        ("CREATE TABLE half ();\n\\set ON_ERROR_STOP off\nSELECT 1/0;", "past an error"),
        ("CREATE TABLE half (t text);\nCOPY half FROM stdin;\none\ntwo", "ends in the middle"),
        ("CREATE TABLE half ();\nSELECT 'not closed;\n", "ends in the middle"),
        ("CREATE TABLE half ();\n/* not closed\n", "ends in the middle"),
        ("CREATE TABLE half ();\n\\if false\n", "ends in the middle"),
    ],
)
def test_a_file_that_ends_the_transaction_changes_nothing(
    engine: Embedded, tmp_path: Path, text: str, saying: str
) -> None:
    (tmp_path / "some.sql").write_text(text)
    with pytest.raises(StackError, match=saying):
        load.load(engine, str(tmp_path / "some.sql"), clean=True, yes=True)
    assert ask(engine, "SELECT count(*) FROM kept") == 20000
    for name in ("half", "two"):
        assert ask(engine, f"SELECT to_regclass('{name}')") is None


def test_a_large_object_is_no_end_of_the_transaction(engine: Embedded, tmp_path: Path) -> None:
    ask(engine, "SELECT lo_from_bytea(0, repeat('x', 5000)::bytea)")
    dumped = plain(engine)
    assert b"COMMIT;" in dumped  # pg_dump puts each batch of them into a transaction
    make_empty(engine)
    (tmp_path / "some.sql").write_bytes(dumped + b"\nSELECT 1/0;\n")
    with pytest.raises(StackError, match="division by zero"):
        load.load(engine, str(tmp_path / "some.sql"), clean=False, yes=True)
    assert ask(engine, "SELECT to_regclass('kept')") is None
    assert ask(engine, "SELECT count(*) FROM pg_largeobject_metadata") == 0


@pytest.mark.parametrize("end", ["COMMIT;", "commit work ;\n", "COMMIT;  -- done\n\n-- really\n", "SELECT 1; COMMIT;"])
def test_a_file_may_have_a_transaction_of_its_own_all_around(engine: Embedded, tmp_path: Path, end: str) -> None:
    rows = "SELECT '\\c'".ljust(3000) + ";\n"
    (tmp_path / "some.sql").write_text(f"BEGIN;\nCREATE TABLE new AS SELECT 42 AS n;\n{rows}{end}")
    load.load(engine, str(tmp_path / "some.sql"), clean=True, yes=True)
    assert ask(engine, "SELECT n FROM new") == 42


@pytest.mark.parametrize(
    "end", ["", ";", "; -- done\n", " -- done", " /* done */", ";\nCOPY new FROM STDIN;\n42\n\\.\n"]
)
def test_a_last_statement_needs_no_semicolon(engine: Embedded, tmp_path: Path, end: str) -> None:
    (tmp_path / "some.sql").write_text(f"CREATE TABLE new (n int){end}")
    load.load(engine, str(tmp_path / "some.sql"), clean=True, yes=True)
    assert ask(engine, "SELECT coalesce(sum(n), 42) FROM new") == 42


def test_a_file_may_begin_with_a_byte_order_mark(engine: Embedded, tmp_path: Path) -> None:
    (tmp_path / "some.sql").write_text("CREATE TABLE new AS SELECT 'größe' AS n;\n", encoding="utf-8-sig")
    load.load(engine, str(tmp_path / "some.sql"), clean=True, yes=True)
    assert ask(engine, "SELECT n FROM new") == "größe"


def test_a_dump_that_fails_leaves_the_former_one(engine: Embedded, tmp_path: Path, archive: bytes) -> None:
    nowhere = Embedded(replace(engine.settings, database="nowhere"), engine.root)
    with pytest.raises(StackError, match="Nothing was written"):
        dump.dump(nowhere, str(tmp_path / "made.dump"))
    assert (tmp_path / "made.dump").read_bytes() == archive
    assert list(tmp_path.glob(".dump-*")) == []
    with pytest.raises(StackError, match="Choose another place"):
        dump.dump(engine, str(tmp_path / "missing" / "a.dump"))


def test_a_server_that_is_run_elsewhere_takes_and_gives_dumps(engine: Embedded, tmp_path: Path, programs: Path) -> None:
    before = ask(engine, CONTENT)
    ask(engine, "CREATE DATABASE elsewhere")
    url = replace(engine.endpoint(), database="elsewhere").url(masked=False)
    found = settings.load(
        tmp_path, {"STACK_ENGINE": "external", "DATABASE_URL": url, "POSTGRES_BIN_DIR": str(programs)}
    )
    external = External(found, engine.root)
    try:
        dump.dump(engine, str(tmp_path / "there.dump"))
        load.load(external, str(tmp_path / "there.dump"), clean=False, yes=False)
        load.load(external, str(tmp_path / "there.dump"), clean=True, yes=True)
        dump.dump(external, str(tmp_path / "back.dump"))
        ask(engine, "UPDATE kept SET n = -n")
        load.load(engine, str(tmp_path / "back.dump"), clean=True, yes=True)
        assert ask(engine, CONTENT) == before
    finally:
        ask(engine, "DROP DATABASE elsewhere WITH (FORCE)")
