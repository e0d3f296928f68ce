"""What `load` and `seed` do with files as psql takes them, on a real PostgreSQL 17; and `undo`."""

from __future__ import annotations

import re
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stack.engines.embedded.engine import Embedded
from stack.ground.errors import Refused, StackError
from stack.ground.run import look
from stack.server.admin import Cluster
from stack.verbs import dump as dump_room
from stack.verbs import load as load_room
from stack.verbs import restore as restore_room
from stack.verbs import snapshots, spares, undo, up
from tests.unit.conftest import embedded

pytestmark = [pytest.mark.xdist_group("loads"), pytest.mark.slow]  # they share a server

ROLES = "SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND NOT rolsuper ORDER BY 1"


@pytest.fixture(scope="module")
def server(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with embedded(programs, tmp_path_factory.mktemp("loads")) as made:
        up.bring_up(made, 30, pull=False, wait=True)
        for setting in ("fsync = off", "max_prepared_transactions = 9"):
            ask(made, f"ALTER SYSTEM SET {setting}")
        made.stop()
        up.bring_up(made, 30, pull=False, wait=True)
        yield made


@pytest.fixture
def engine(server: Embedded, monkeypatch: pytest.MonkeyPatch) -> Iterator[Embedded]:
    """The server with a table in its database; what runs in the background does so at once."""
    monkeypatch.setattr(spares, "in_background", lambda _: None)
    monkeypatch.setattr(spares, "go_on_in_background", spares.keep_ready)
    clean(server)
    ask(server, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    (server.root / "seed").mkdir(exist_ok=True)
    for each in (server.root / "seed").iterdir():
        each.unlink()
    yield server
    clean(server)


def clean(engine: Embedded) -> None:
    for (name,) in rows(
        engine, "SELECT datname FROM pg_database WHERE datname !~ '^(postgres|template.)$'", "postgres"
    ):
        for (gid,) in rows(engine, f"SELECT gid FROM pg_prepared_xacts WHERE database = '{name}'", "postgres"):
            ask(engine, f"ROLLBACK PREPARED '{gid}'", name)
        ask(engine, f'ALTER DATABASE "{name}" IS_TEMPLATE false', "postgres")
        ask(engine, f'DROP DATABASE "{name}" WITH (FORCE)', "postgres")
    for (name,) in rows(engine, ROLES, "postgres"):
        ask(engine, f'DROP ROLE "{name}"', "postgres")
    ask(engine, "CREATE DATABASE convex_poc", "postgres")


def login(engine: Embedded, database: str = "convex_poc", **words: Any) -> psycopg.Connection[Any]:
    return psycopg.connect(engine.endpoint().url(masked=False), dbname=database, autocommit=True, **words)


def rows(engine: Embedded, statement: str, database: str = "convex_poc") -> list[Any]:
    with login(engine, database) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def ask(engine: Embedded, statement: str, database: str = "convex_poc") -> list[Any]:
    return [row[0] for row in rows(engine, statement, database)]


def there(engine: Embedded, name: str) -> bool:
    return ask(engine, f"SELECT to_regclass('{name}') IS NOT NULL") == [True]


def ours(engine: Embedded) -> list[str]:
    """The kinds of databases that are called as ours."""
    return [name[6:-33] for name in ask(engine, "SELECT datname FROM pg_database WHERE datname LIKE 'stack_%'")]


def load(engine: Embedded, text: str | bytes, *, clean: bool = True, trust: bool = False) -> None:
    file = engine.root / "some.sql"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    load_room.load(engine, str(file), clean=clean, yes=True, trust=trust)


def fails(engine: Embedded, text: str | bytes, *, clean: bool = True) -> str:
    """Load what cannot be loaded, and return why; nothing is left of it, and the user's database is as it was."""
    before = rows(engine, "SELECT oid FROM pg_database WHERE datname = 'convex_poc'")
    with pytest.raises(StackError) as told:
        load(engine, text, clean=clean)
    assert told.value.code == 1
    assert "the database is as it was" in str(told.value)
    assert rows(engine, "SELECT oid FROM pg_database WHERE datname = 'convex_poc'") == before
    assert ask(engine, "SELECT count(*) FROM kept") == [1000]
    assert set(ours(engine)) <= {"undo"}
    return str(told.value).partition("The reason:\n")[2].replace(f"{engine.root}/", "")


def seed(engine: Embedded, **files: str) -> None:
    for name, text in files.items():
        (engine.root / "seed" / f"{name}.sql").write_text(text)
    load_room.seed(engine)


# -- what psql takes -------------------------------------------------------------------------------------------

TAKEN = {
    "a schema public of its own": "create  schema public;\nCREATE SCHEMA \"public\" ;\ncreate table new ();\n",
    "two transactions": "BEGIN;\ncreate table new ();\nCOMMIT;\nSTART TRANSACTION;\ncreate table two ();\nCOMMIT;\n",
    "ANALYZE after the COMMIT": "BEGIN; create table new (n int); COMMIT;\nANALYZE;\nVACUUM;\nVACUUM FULL new;\n",
    "an index concurrently": "create table new (n int);\ncreate index concurrently on new (n);\nreindex table "
    "concurrently new;",
    "a used enum value": "create type mood as enum ('a');alter type mood add value 'b';\n"
    "create table new (m mood default 'b')",
    "ON_ERROR_STOP on": "\\set ON_ERROR_STOP on\ncreate table new ();",
    "ON_ERROR_STOP off, and no error": "  \\set ON_ERROR_STOP off\ncreate table new ();",
    "an unset ON_ERROR_STOP": "\\unset ON_ERROR_STOP\ncreate table new ();",
    "\\q last": "create table new ();\n\\q\n",
    "\\q last, without a line's end": "create table new ();\n\\q",
    "\\q and comments": "create table new ();\n \\quit\n\n-- the end\n--------\n",
    "\\q in a comment": "/*\n\\q\n*/ create table new ();\n",
    "words of psql": "\\timing on\n\\echo hello\n\\pset format html\n\\x\n\\t\ncreate table new ();\nselect 1;\n",
    "output that goes elsewhere": "\\o /dev/null\ncreate table new ();\nselect 42;\n",
    "a lot of output": "create table new ();\nselect repeat('x', 1000) from generate_series(1, 3000);\n",
    "a procedure that commits": "create table new (n int);\ncreate procedure p() language plpgsql as $$ begin"
    " insert into new values (1); commit; insert into new values (2); end $$;\ncall p();\n",
    "an autocommit of its own": "\\set AUTOCOMMIT off\ncreate table new ();\ncommit;\n",
    "a line of sixty dashes": f"create table new ();\n{'-' * 60}\n-- x\n",
    "sixty dashes without an end": f"create table new ()\n{'-' * 60}",
    "another role at its end": "create table new ();\nset role pg_monitor;\n",
    "a name of its own": "set application_name = 'mine'; create table new ();\n",
    "settings of its own": "set client_min_messages = debug5; set search_path = ''; create table public.new ();\n",
    "discarded settings": "create table new ();\ndiscard all;\n",
    "a statement that is cut by the end": "create table new\n(\n)",
    "a warning": "do $$ begin raise warning 'ERROR: no'; end $$; create table new ();\n",
    "a rollback of its own": "begin; create table two (); rollback; create table new ();\n",
    "its database's name without quotes": "create table new ();\nalter database :DBNAME set request.claim = '1';\n"
    "do $$ begin execute 'alter database ' || current_database() || ' set work_mem = 9999'; end $$;\n\\c :DBNAME\n",
    "a savepoint": "begin; savepoint a; create table two (); rollback to a; create table new (); commit;\n",
    "a database as words": "select 'DROP DATABASE convex_poc';\ncreate table new ();\n",
}  # fmt: skip


@pytest.mark.parametrize("what", TAKEN)
def test_what_psql_takes_is_loaded(engine: Embedded, what: str) -> None:
    load(engine, TAKEN[what], trust="\\o " in TAKEN[what])
    assert there(engine, "new")
    assert not there(engine, "kept")


def test_an_archive_that_makes_the_schema_public_is_loaded(engine: Embedded) -> None:
    ask(engine, "CREATE TABLE new ()")
    archive = engine.root / "own.dump"
    assert look(*engine.client("pg_dump", "-Fc", "-n", "public", "-f", str(archive))).returncode == 0
    assert "CREATE SCHEMA public" in look([str(engine.home.programs / "pg_restore"), "-f", "-", str(archive)]).stdout
    ask(engine, "DROP TABLE new")
    load_room.load(engine, str(archive), clean=True, yes=True)
    assert there(engine, "new")


def test_a_file_that_psql_has_in_transactions_of_its_own_fails_as_a_whole(engine: Embedded) -> None:
    assert "some.sql:3: ERROR:  division by zero" in fails(engine, "BEGIN; CREATE TABLE a (); COMMIT;\n\nSELECT 1/0;")


# -- the true reason -------------------------------------------------------------------------------------------

REFUSED = {
    "an early error before a lot of rows": (
        "create table a (n int);\nalter table nobody owner to me;\n"
        + "insert into a values (1);\n" * 40000,
        'some.sql:2: ERROR:  relation "nobody" does not exist',
    ),
    "an error in a statement of many lines": ("select\n1/\n0\n;\nselect 1;\n", "some.sql:4: ERROR:  division by zero"),
    "an error in a last statement without semicolon": ("create table a ();\nselect 1/0", "some.sql:2: ERROR:  div"),
    "rows that do not fit": (
        "create table a (n int);\ncopy a from stdin;\n1\nx\n\\.\nselect 1;\n",
        'some.sql:5: ERROR:  invalid input syntax for type integer: "x"\nCONTEXT:  COPY a, line 2',
    ),
    "a stray \\else": ("create table a ();\n\\else\ncreate table b ();\n", r":2: error: \else: no matching \if"),
    "a word that psql does not know": ("create table a ();\n\\nonsense\n", r":2: error: invalid command \nonsense"),
    "an error that is gone past": (
        "\\set ON_ERROR_STOP off\nselect 1/0;\nselect 1/0;\ncreate table a ();\n",
        "some.sql:2: ERROR:  division by zero\npsql went on past an error, the first of 2, as it does when",
    ),
    "an error that is gone past by \\unset": ("\\unset ON_ERROR_STOP\nselect 1/0;\n", "past an error"),
    "a condition that is neither": (
        "create table a ();\n\\if :SERVER_VERSION_NUM\n\\endif\n",
        "psql went on past an error, as it does when a file sets ON_ERROR_STOP off, and when an \\if is neither",
    ),
    "a condition that is not closed": ("create table a ();\n\\if true\n", "ends in the middle"),
    "a COPY of CSV that is cut": ("create table a (t text);\ncopy a from stdin csv;\nx\ny", "ends in the middle"),
    "a statement cut off": ("create table a ();\ninsert into a", "some.sql:2: ERROR:  syntax error at end of input"),
    "a body that is not closed": ("create table a ();\ndo $x$ begin", "ends in the middle"),
    "a name that is not closed": ('create table a ();\ncreate table "b', "ends in the middle"),
    "\\q half-way": ("create table a ();\n\\q\ncreate table b ();\n", r"at the line \q"),
    "\\q at once": ("\\q\ncreate table b ();\n", r"at the line \q"),
    "a transaction that is not ended": ("begin;\ncreate table a ();\n", "leaves a transaction open"),
    "a transaction that has failed": ("\\set ON_ERROR_STOP 0\nbegin;\nselect 1/0;\ncreate table a ();\n", ":3: ERROR"),
    "a session that ends itself": (
        "select pg_terminate_backend(pg_backend_pid());\ncreate table a ();\n",
        "some.sql:1: FATAL:  terminating connection due to administrator command",
    ),
    "a prepared transaction": ("begin; create table a (); prepare transaction 'x';\n", "x"),
}  # fmt: skip


@pytest.mark.parametrize("what", [each for each in REFUSED if each != "a prepared transaction"])
def test_the_true_reason_is_told_with_file_and_line(engine: Embedded, what: str) -> None:
    text, saying = REFUSED[what]
    told = fails(engine, text)
    assert saying in told
    assert "~|" not in told  # what is given to psql behind the file, and nobody has written


def test_a_dump_with_an_early_error_of_any_size_tells_it(engine: Embedded) -> None:
    dump = subprocess.run(engine.client("pg_dump").argv, check=True, capture_output=True).stdout
    text = dump.replace(b"CREATE TABLE public.kept", b"CREATE TABEL public.kept")
    assert 'ERROR:  syntax error at or near "TABEL"' in fails(engine, text + b"-- " + b"x" * 1_000_000)
    crlf = dump.replace(b"\n", b"\r\n")
    load(engine, b"\xef\xbb\xbf" + crlf)
    assert ask(engine, "SELECT count(*) FROM kept") == [1000]
    assert "last line of a dump is missing" in fails(engine, crlf[: crlf.rindex(b"\r\n--\r\n-- Name")])


def test_a_connection_that_is_lost_is_no_error_that_psql_went_past(engine: Embedded) -> None:
    assert "went on" not in fails(engine, b"select pg_terminate_backend(pg_backend_pid());\ncreate table a ();\n")


def test_a_dump_whose_end_is_far_from_the_files_end_is_whole(engine: Embedded) -> None:
    dump = subprocess.run(engine.client("pg_dump").argv, check=True, capture_output=True).stdout
    load(engine, dump + b"INSERT INTO public.kept VALUES (1);\n" * 20000)  # as frameworks do
    assert ask(engine, "SELECT count(*) FROM kept") == [21000]


def test_an_archive_that_fails_early_ends_at_once_with_the_reason(engine: Embedded, tmp_path: Path) -> None:
    ask(engine, "CREATE TABLE big AS SELECT sha512(n::text::bytea) AS h FROM generate_series(1, 30000) AS n")
    ask(
        engine,
        "CREATE DOMAIN small AS int CHECK (VALUE < 5000); CREATE TABLE odd (n small); INSERT INTO odd VALUES (1)",
    )
    dump_room.dump(engine, str(tmp_path / "x.dump"))
    ask(engine, "DROP TABLE big, odd; DROP DOMAIN small")
    data = (tmp_path / "x.dump").read_bytes()
    (tmp_path / "x.dump").write_bytes(data.replace(b"CREATE TABLE public.odd", b"CREATE TABEL public.odd", 1))
    for clean in (True, False):
        begun = time.monotonic()
        if not clean:
            ask(engine, "DROP TABLE kept")
        with pytest.raises(StackError, match='syntax error at or near "TABEL"'):
            load_room.load(engine, str(tmp_path / "x.dump"), clean=clean, yes=True)
        assert time.monotonic() - begun < 30
        assert ours(engine) == []


# -- the database itself ----------------------------------------------------------------------------------------


def test_the_database_stays_what_it_was(engine: Embedded) -> None:
    """Owner, encoding, locale, settings, grants, comment and limit."""
    ask(engine, "CREATE ROLE boss; CREATE ROLE app LOGIN")
    ask(engine, "DROP DATABASE convex_poc WITH (FORCE)", "postgres")
    ask(
        engine,
        "CREATE DATABASE convex_poc OWNER boss TEMPLATE template0 ENCODING LATIN1 LOCALE_PROVIDER libc LOCALE 'C'"
        " CONNECTION LIMIT 77",
        "postgres",
    )
    ask(engine, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    for statement in (
        "ALTER DATABASE convex_poc SET search_path = public, extra",
        "ALTER ROLE app IN DATABASE convex_poc SET work_mem = 77",
        "REVOKE ALL ON DATABASE convex_poc FROM PUBLIC", "GRANT CONNECT, TEMP ON DATABASE convex_poc TO app",
        "COMMENT ON DATABASE convex_poc IS 'mine, all mine'",
    ):  # fmt: skip
        ask(engine, statement)
    query = """
        SELECT datdba::regrole::text, encoding, datlocprovider, datcollate, datctype, datlocale, datconnlimit,
               datallowconn, datistemplate, datacl::text, shobj_description(d.oid, 'pg_database'), dattablespace,
               (SELECT array_agg((setrole, setconfig)::text ORDER BY setrole) FROM pg_db_role_setting
                WHERE setdatabase = d.oid)
        FROM pg_database AS d WHERE datname = 'convex_poc'"""
    before = rows(engine, query)
    load(engine, "create table new ();")
    assert (rows(engine, query), there(engine, "new")) == (before, True)
    seed(engine, a="create table more ();")
    assert (rows(engine, query), there(engine, "more")) == (before, True)
    undo.undo(engine)
    assert (rows(engine, query), there(engine, "more")) == (before, False)
    ask(engine, "DROP DATABASE convex_poc WITH (FORCE)", "postgres")
    for (name,) in rows(engine, "SELECT datname FROM pg_database WHERE datname LIKE 'stack_%'", "postgres"):
        ask(engine, f'DROP DATABASE "{name}"', "postgres")


def test_what_is_no_table_stays_when_a_file_comes_into_an_empty_database(engine: Embedded) -> None:
    ask(engine, "DROP TABLE kept; CREATE SCHEMA app; CREATE FUNCTION app.f() RETURNS int LANGUAGE sql RETURN 42")
    load(engine, "create table new as select app.f() as n", clean=False)
    assert ask(engine, "SELECT n FROM new") == [42]


def test_nobody_else_may_enter_what_is_being_filled(engine: Embedded) -> None:
    ask(engine, "CREATE ROLE app LOGIN PASSWORD 'x'")
    seen: list[str] = []

    def enter() -> None:
        while not (
            aside := ask(engine, "SELECT datname FROM pg_stat_activity WHERE application_name ~ '^stack-load-'")
        ):
            time.sleep(0.05)
        with pytest.raises(psycopg.OperationalError) as told:
            login(engine, aside[0], user="app", password="x")
        seen.append(str(told.value))

    thread = threading.Thread(target=enter)
    thread.start()
    load(engine, "select pg_sleep(3); create table new ();")
    thread.join()
    assert "too many connections for database" in seen[0]


def test_a_role_that_is_missing_is_made_without_login_and_goes_with_a_load_that_fails(engine: Embedded) -> None:
    text = (
        'create table new ();\nALTER TABLE public.new OWNER TO "Harbour Master";\nGRANT SELECT ON TABLE new TO crew;\n'
    )
    fails(engine, text + "select 1/0;\n")
    assert ask(engine, ROLES) == []
    load(engine, text)
    assert rows(engine, "SELECT rolname, rolcanlogin FROM pg_roles WHERE rolname IN ('Harbour Master', 'crew')") == [
        ("Harbour Master", False), ("crew", False)
    ]  # fmt: skip
    assert ask(engine, "SELECT tableowner FROM pg_tables WHERE tablename = 'new'") == ["Harbour Master"]
    assert ask(engine, "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = 'crew'") == [None]


MAKES_CREW = {
    "a block": "DO $$ BEGIN CREATE ROLE crew; END $$;\n",
    "a block that minds": "DO $x$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'crew') THEN\n"
    "EXECUTE format('CREATE ROLE %I', 'crew'); END IF; END $x$;\n",
    "a block that catches": "DO $$ BEGIN CREATE ROLE crew; EXCEPTION WHEN duplicate_object THEN NULL; END $$;\n",
    "a block behind other roles": "CREATE ROLE mate LOGIN;\nDO $$ BEGIN CREATE ROLE crew; END $$;\n",
    "a block with a comment": "DO $$ BEGIN CREATE ROLE crew; COMMENT ON ROLE crew IS 'it''s \"ours\"'; END $$;\n",
    "a block and a comment": "DO $$ BEGIN CREATE ROLE crew; END $$;\nCOMMENT ON ROLE crew IS 'it''s \"ours\"';\n",
    "a transaction": "BEGIN;\nDO $$ BEGIN CREATE ROLE crew; END $$;\nCOMMIT;\n",
    "a function": "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN CREATE ROLE crew; RETURN 1; END $$;\n"
    "SELECT f();\n",
    "a procedure": 'CREATE PROCEDURE public."F"() LANGUAGE plpgsql AS $$ BEGIN CREATE ROLE crew; END $$;\n'
    'CALL public."F"();\n',
    "a result": "SELECT 'CREATE ROLE crew' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'crew') \\gexec\n",
    "a result in a transaction": "BEGIN;\nSELECT 'CREATE ROLE crew'\\gexec\nCOMMIT;\n",
    "as another": "SET ROLE pg_monitor; RESET ROLE;\nDO $$ BEGIN CREATE ROLE crew; END $$;\n",
}


@pytest.mark.parametrize("what", MAKES_CREW)
def test_a_role_that_is_made_unseen_goes_with_a_load_that_fails(
    engine: Embedded, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = MAKES_CREW[what] + "create table new ();\nALTER TABLE new OWNER TO crew;\n"
    line = text.count("\n") + 1
    assert fails(engine, text + "select 1/0;\n").startswith(f"some.sql:{line}: ERROR:  division by zero")
    assert ask(engine, ROLES) == []
    load(engine, text)
    assert "crew" in ask(engine, ROLES)
    said = ['it\'s "ours"'] if "comment" in what else [None]
    assert ask(engine, "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = 'crew'") == said
    assert ask(engine, "SELECT tableowner FROM pg_tables WHERE tablename = 'new'") == ["crew"]
    assert "crew" not in capsys.readouterr().err  # it is the file that made it


def test_a_role_that_is_made_in_an_open_transaction_is_not_waited_for(engine: Embedded) -> None:
    """What is fed is read far ahead of what psql has run, and far behind what it has not committed."""
    pad = "".join(f"INSERT INTO new VALUES ({n});\n" for n in range(20000))
    make = "DO $$ BEGIN EXECUTE 'CREATE ' || 'ROLE ' || 'crew'; END $$;\n"
    load(engine, f"BEGIN;\n{make}CREATE TABLE new (n int);\n{pad}ALTER TABLE new OWNER TO crew;\nCOMMIT;\n")
    assert ask(engine, "SELECT tableowner FROM pg_tables WHERE tablename = 'new'") == ["crew"]


def test_a_role_that_somebody_else_may_have_made_is_named_and_stays(
    engine: Embedded, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = "DO $$ BEGIN EXECUTE 'CREATE ' || 'ROLE ' || '\"the crew\"'; END $$;\n"
    change = "DO $$ BEGIN CREATE ROLE mate; ALTER ROLE stranger CONNECTION LIMIT 7; END $$;\n"
    thread = threading.Timer(1, lambda: ask(engine, "CREATE ROLE stranger", "postgres"))
    thread.start()
    fails(engine, f"{hidden}select pg_sleep(3);\n{change}select 1/0;\n")
    thread.join()
    assert ask(engine, ROLES) == ["mate", "stranger", "the crew"]
    said = capsys.readouterr().err
    assert "The roles mate, stranger, the crew are new since the file was begun, and here still" in said
    cure = re.search("`invoke psql -c (.*?)`", said)
    assert cure
    (statement,) = shlex.split(cure[1])
    ask(engine, statement)
    assert ask(engine, ROLES) == []


def test_owners_and_grants_of_an_archive_come_back_on_a_server_that_lacks_them(
    engine: Embedded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(engine, 'CREATE ROLE "the owner"; CREATE ROLE reader LOGIN; CREATE ROLE "of blobs"')
    ask(engine, 'ALTER TABLE kept OWNER TO "the owner"; GRANT SELECT ON kept TO reader')
    ask(engine, 'SELECT lo_create(77); ALTER LARGE OBJECT 77 OWNER TO "of blobs"')
    query = "SELECT relowner::regrole::text, relacl::text FROM pg_class WHERE relname = 'kept'"
    before = rows(engine, query)
    dump_room.dump(engine, str(tmp_path / "x.dump"))
    clean(engine)
    capsys.readouterr()
    load_room.load(engine, str(tmp_path / "x.dump"), clean=False, yes=False)
    assert rows(engine, query) == before
    assert ask(engine, "SELECT lomowner::regrole::text FROM pg_largeobject_metadata") == ['"of blobs"']
    said = capsys.readouterr().err
    assert "reader" in said
    assert "LOGIN" in said
    assert ask(engine, "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'reader'") == [False]


# -- seed ------------------------------------------------------------------------------------------------------


def test_seed_is_whole_or_not_at_all(engine: Embedded) -> None:
    with pytest.raises(StackError, match=r"(?s)seed/b.sql failed, and nothing of seed/.*seed/b.sql:2: ERROR:  div"):
        seed(engine, a="CREATE TABLE a ();", b="CREATE TABLE b ();\nSELECT 1/0;", c="CREATE TABLE c ();")
    assert not there(engine, "a")
    assert ours(engine) == []
    seed(engine, b="CREATE TABLE b ();")
    assert [there(engine, name) for name in ("a", "b", "c", "kept")] == [True] * 4


def test_seed_with_nothing_to_apply_says_so(engine: Embedded, capsys: pytest.CaptureFixture[str]) -> None:
    seed(engine)
    assert capsys.readouterr().err.startswith("There is nothing in seed/ to apply.")
    assert ours(engine) == []


def test_no_write_is_lost_while_seed_runs(engine: Embedded) -> None:
    """Somebody writes all the time: what was acknowledged is there afterwards."""
    ask(engine, "CREATE TABLE log (n int)")
    done, acknowledged = threading.Event(), list[int]()

    def write() -> None:
        n = 0
        while not done.is_set():
            try:
                with login(engine, connect_timeout=30) as session:
                    while not done.is_set():
                        n += 1
                        session.execute("INSERT INTO log VALUES (%s)", [n])
                        acknowledged.append(n)
            except psycopg.Error:
                time.sleep(0.001)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for n in range(4):
            with suppress(StackError):  # three writers can outrun it on a busy machine; then it changes nothing
                seed(engine, a=f"CREATE TABLE t{n} AS SELECT 1 AS n;")
    finally:
        done.set()
        for thread in threads:
            thread.join()
    found = ask(engine, "SELECT n FROM log")
    assert len(acknowledged) > 100
    missing = len(acknowledged) - len(found)
    assert missing <= 0


def test_what_waits_for_the_database_that_is_held_is_told_and_ends(engine: Embedded) -> None:
    with pytest.raises(StackError, match=r"(?s)canceling statement.*ALTER DATABASE convex_poc.*is held") as told:
        seed(engine, a="DO $$ BEGIN EXECUTE 'ALTER DATABASE convex_poc SET work_mem = 99'; END $$;")
    assert "seed/a.sql:1" in str(told.value)


def test_ctrl_c_in_the_exchange_leaves_nothing_open(
    engine: Embedded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A transaction is not rolled back whose last answer was not read; what it holds kept the clearing up waiting."""

    def interrupted(cluster: Cluster, _: str) -> None:
        cluster.connection.pgconn.send_query(b"SELECT 1")
        raise KeyboardInterrupt

    monkeypatch.setattr(Cluster, "shut", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(engine, "CREATE TABLE new ();")
    assert "Waiting in the server" not in capsys.readouterr().err
    assert there(engine, "kept")
    assert ours(engine) == []


# -- undo ------------------------------------------------------------------------------------------------------


def test_undo_brings_back_what_a_load_replaced_and_undoes_itself(
    engine: Embedded, capsys: pytest.CaptureFixture[str]
) -> None:
    load(engine, "create table new ();")
    assert "`invoke undo`" in capsys.readouterr().err
    undo.undo(engine)
    assert (there(engine, "kept"), there(engine, "new")) == (True, False)
    undo.undo(engine)
    assert (there(engine, "kept"), there(engine, "new")) == (False, True)
    undo.undo(engine)
    assert (there(engine, "kept"), there(engine, "new")) == (True, False)
    assert ours(engine) == ["undo"]


def test_undo_brings_back_what_seed_and_restore_replaced(engine: Embedded) -> None:
    snapshots.take(engine, "one")
    seed(engine, a="create table a ();")
    undo.undo(engine)
    assert not there(engine, "a")
    undo.undo(engine)
    restore_room.restore(engine)
    assert not there(engine, "a")
    undo.undo(engine)
    assert there(engine, "a")
    restore_room.restore(engine)
    assert [each.name for each in snapshots.listed(engine)] == ["one"]


def test_undo_brings_back_a_snapshot_that_was_dropped(engine: Embedded) -> None:
    snapshots.take(engine, "one", message="why")
    before = snapshots.listed(engine)[0]
    for _ in range(2):
        snapshots.drop(engine, "one", yes=True)
        assert snapshots.listed(engine) == []
        undo.undo(engine)
        (after,) = snapshots.listed(engine)
        assert (after.name, after.message, after.turn) == (before.name, before.message, before.turn)
    undo.undo(engine)
    assert snapshots.listed(engine) == []
    undo.undo(engine)
    ask(engine, "DROP TABLE kept")
    restore_room.restore(engine, "one")
    assert there(engine, "kept")


def test_without_a_step_undo_says_so(engine: Embedded) -> None:
    with pytest.raises(Refused, match="There is nothing to undo"):
        undo.undo(engine)
    fails(engine, "select 1/0;")
    with pytest.raises(Refused, match="There is nothing to undo"):
        undo.undo(engine)


def test_one_step_is_kept_and_shown(engine: Embedded, capsys: pytest.CaptureFixture[str]) -> None:
    load(engine, "create table one ();")
    load(engine, "create table two ();")
    assert ours(engine) == ["undo"]
    capsys.readouterr()
    snapshots.listed(engine)
    said = capsys.readouterr().err
    assert "`invoke undo` brings back convex_poc as it was before `invoke load --clean" in said
    undo.undo(engine)
    assert there(engine, "one")
