"""Files brought into a server that somebody else runs, by a role that is no superuser there."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from stack.engines.embedded.engine import Embedded
from stack.engines.external import External
from stack.ground import settings
from stack.ground.errors import Refused, StackError
from stack.verbs import dump, env, load, status, up
from stack.verbs.wait import wait_usable
from tests.ports import own_port
from tests.unit.conftest import ask, embedded

pytestmark = pytest.mark.xdist_group("external")  # they share a server

TABLES = "SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'public'"


@pytest.fixture(scope="module")
def theirs(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with embedded(programs, tmp_path_factory.mktemp("theirs")) as made:
        up.bring_up(made, 30, pull=False, wait=True)
        ask(made, "ALTER SYSTEM SET fsync = off")
        ask(made, "SELECT pg_reload_conf()")
        ask(made, "CREATE ROLE guest LOGIN PASSWORD 'guest'")
        yield made


@pytest.fixture
def external(theirs: Embedded, programs: Path, tmp_path: Path) -> External:
    """The engine of a guest, who owns a database with a table in it, and what a superuser has put there."""
    ask(theirs, "DROP DATABASE IF EXISTS app WITH (FORCE)")
    ask(theirs, "CREATE DATABASE app OWNER guest")
    ask(theirs, "CREATE EXTENSION pg_trgm; CREATE PUBLICATION every FOR ALL TABLES", "app")
    url = replace(theirs.endpoint(), user="guest", password="guest", database="app").url(masked=False)
    found = settings.load(
        tmp_path, {"STACK_ENGINE": "external", "DATABASE_URL": url, "POSTGRES_BIN_DIR": str(programs)}
    )
    ask(theirs, "SET ROLE guest; CREATE TABLE kept AS SELECT generate_series(1, 9) AS n", "app")
    return External(found, tmp_path)


def load_clean(external: External, text: str) -> None:
    file = external.root / "some.sql"
    file.write_text(text)
    load.load(external, str(file), clean=True, yes=True)


def test_what_a_superuser_owns_stays_when_the_rest_is_replaced(theirs: Embedded, external: External) -> None:
    load_clean(external, "CREATE TABLE new (t text);\nCREATE INDEX ON new USING gin (t gin_trgm_ops);\n")
    assert ask(theirs, TABLES, "app") == "new"
    assert ask(theirs, "SELECT string_agg(extname, ' ' ORDER BY extname) FROM pg_extension", "app") == "pg_trgm plpgsql"
    assert ask(theirs, "SELECT puballtables FROM pg_publication", "app") is True
    assert ask(theirs, "SELECT tableowner FROM pg_tables WHERE tablename = 'new'", "app") == "guest"


def test_a_commit_that_fails_is_told_and_leaves_what_was_there(theirs: Embedded, external: External) -> None:
    text = "CREATE TABLE a (n int PRIMARY KEY);\nCREATE TABLE b (n int REFERENCES a DEFERRABLE INITIALLY DEFERRED);\n"
    with pytest.raises(StackError) as told:
        load_clean(external, f"{text}INSERT INTO b VALUES (7);\n")
    assert 'violates foreign key constraint "b_n_fkey"' in str(told.value)
    assert "Key (n)=(7) is not present" in str(told.value)
    assert "the database is as it was" in str(told.value)
    assert "COMMIT in the middle" not in str(told.value)
    assert ask(theirs, TABLES, "app") == "kept"
    load_clean(external, f"{text}INSERT INTO b VALUES (7);\nINSERT INTO a VALUES (7);\n")
    assert ask(theirs, TABLES, "app") == "a b"


def test_a_publication_of_all_tables_that_only_a_superuser_may_make_is_told(
    theirs: Embedded, external: External
) -> None:
    with pytest.raises(StackError, match=r"some\.sql:2: ERROR:  must be superuser to create FOR ALL TABLES"):
        load_clean(external, "CREATE TABLE new ();\nCREATE PUBLICATION mine FOR ALL TABLES;\n")
    assert ask(theirs, TABLES, "app") == "kept"


@pytest.mark.parametrize("name", ["my.dump", "my.sql"])
@pytest.mark.parametrize("clean", [True, False])
def test_ones_own_dump_comes_back_beside_an_extension_of_the_superusers(
    theirs: Embedded, external: External, name: str, clean: bool
) -> None:
    """pg_dump writes COMMENT ON EXTENSION, which is for its owner alone."""
    ask(theirs, "SET ROLE guest; CREATE EXTENSION citext; COMMENT ON EXTENSION citext IS 'it''s\nmine';", "app")
    ask(theirs, "SET ROLE guest; CREATE TABLE words (t text); CREATE INDEX ON words USING gin (t gin_trgm_ops)", "app")
    file = external.root / name
    ask(theirs, "DROP PUBLICATION every", "app")  # which none but a superuser makes
    dump.dump(external, str(file))
    if not clean:
        ask(theirs, "DROP TABLE kept, words; DROP EXTENSION citext", "app")
    load.load(external, str(file), clean=clean, yes=True)
    assert ask(theirs, TABLES, "app") == "kept words"
    assert ask(theirs, "SELECT count(*) FROM kept", "app") == 9
    told = "SELECT obj_description(oid, 'pg_extension') FROM pg_extension WHERE extname = "
    assert ask(theirs, told + "'citext'", "app") == "it's\nmine"
    assert "trigram" in str(ask(theirs, told + "'pg_trgm'", "app"))


@contextmanager
def pooled(external: External, folder: Path) -> Iterator[External]:
    """The same database behind a PgBouncer in transaction mode that has one session, which each client gets in turn."""
    if not (pgbouncer := shutil.which("pgbouncer")):
        pytest.skip("PgBouncer is not here: apt-get install pgbouncer")
    there, port = external.endpoint(), own_port()
    folder.mkdir()
    (folder / "users").write_text(f'"{there.user}" "{there.password}"\n')
    (folder / "ini").write_text(
        f"[databases]\n{there.database} = host={there.host} port={there.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nauth_type = plain\nauth_file = {folder}/users\npool_mode = transaction\n"
        f"default_pool_size = 1\nunix_socket_dir =\nignore_startup_parameters = extra_float_digits,options\n"
    )
    folder.chmod(0o755)
    as_nobody = ["-u", "nobody"] if os.geteuid() == 0 else []
    log = (folder / "log").open("wb")
    server = subprocess.Popen([pgbouncer, "-q", *as_nobody, str(folder / "ini")], stdout=log, stderr=log)
    url = replace(there, port=port).url(masked=False)
    found = settings.load(folder, {"STACK_ENGINE": "external", "DATABASE_URL": url,
                                   "POSTGRES_BIN_DIR": external.settings.bin_dir})  # fmt: skip
    try:
        for _ in range(100):
            with suppress(psycopg.OperationalError), psycopg.connect(url, connect_timeout=2):
                break
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        yield External(found, folder)
    finally:
        server.terminate()
        server.wait(10)
        log.close()


def test_a_pooled_session_is_left_as_it_was_found(theirs: Embedded, external: External, tmp_path: Path) -> None:
    """A second load met the function of the first, and other clients the search_path that a dump sets."""
    with pooled(external, Path(tempfile.mkdtemp()) / "pool") as there:
        for name in ("one", "two"):
            sql = f"SET search_path = ''; SET statement_timeout = '7min'; CREATE TABLE public.{name} ();"
            (there.root / f"{name}.sql").write_text(sql)
            load.load(there, str(there.root / f"{name}.sql"), clean=True, yes=True)
        assert ask(theirs, TABLES, "app") == "two"
        with psycopg.connect(there.endpoint().url(masked=False), prepare_threshold=None) as session:
            found = "SELECT current_setting('statement_timeout'), current_setting('search_path'), to_regclass('two')"
            assert session.execute(found).fetchone() == ("0", '"$user", public', "two")


def test_a_standby_is_told_as_what_it_is(
    programs: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path_factory.mktemp("standby")
    with embedded(programs, root) as standby:
        up.bring_up(standby, 30, pull=False, wait=True)
        standby.stop()
        (standby.home.directory / "standby.signal").touch()
        wait_usable(standby, 30, standby.start())
        url = f"{standby.endpoint().url(masked=False)}"
        there = {"STACK_ENGINE": "external", "DATABASE_URL": url, "POSTGRES_BIN_DIR": str(programs)}
        external = External(settings.load(root, there), root)
        (root / "seed").mkdir()
        for file in (root / "some.sql", root / "seed" / "010.sql"):
            file.write_text("CREATE TABLE t ();")
        for what in (
            lambda: load.load(external, str(root / "some.sql"), clean=False, yes=True),
            lambda: load.seed(external),
        ):
            with pytest.raises(StackError, match="is a standby, which can only be read, so nothing was done") as told:
                what()
            assert "Mend the file" not in str(told.value)
        assert status.status(external, as_json=False) == 0  # it can be read
        assert "postgres is a standby, which can only be read" in capsys.readouterr().err
        (standby.home.directory / "standby.signal").unlink()
        standby.stop()
        wait_usable(standby, 30, standby.start())
        found = urlsplit(url)
        both = f"{found.scheme}://{found.netloc.rpartition('@')[0]}@127.0.0.1:1,127.0.0.1:{found.port}{found.path}"
        there["DATABASE_URL"] = f"{both}?target_session_attrs=read-write"  # the cure
        load.load(External(settings.load(root, there), root), str(root / "some.sql"), clean=False, yes=True)
        assert ask(standby, TABLES, standby.settings.database) == "t"


def test_where_no_data_is_to_be_deleted_nobody_is_told_to(external: External) -> None:
    (external.root / "some.sql").write_text("CREATE TABLE t ();")
    with pytest.raises(Refused, match=r"Add --clean .*, or name an empty database in DATABASE_URL\.$"):
        load.load(external, str(external.root / "some.sql"), clean=False, yes=True)


def test_env_says_all_that_the_address_does(external: External) -> None:
    url = "postgresql://me@h1,h2:5433/app?target_session_attrs=read-write&sslmode=verify-full&application_name=x"
    there = settings.load(external.root, {"STACK_ENGINE": "external", "DATABASE_URL": url})
    told = env.settings(External(there, external.root))
    assert (told["PGTARGETSESSIONATTRS"], told["PGSSLMODE"], told["PGHOST"]) == ("read-write", "verify-full", "h1,h2")
    assert "PGAPPLICATIONNAME" not in told
