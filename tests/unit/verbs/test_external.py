"""Files brought into a server that somebody else runs, by a role that is no superuser there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from stack.engines.embedded.engine import Embedded
from stack.engines.external import External
from stack.ground import settings
from stack.ground.errors import StackError
from stack.verbs import dump, load, up
from tests.unit.conftest import embedded

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


def ask(engine: Embedded, sql: str, database: str = "postgres") -> object:
    with psycopg.connect(engine.endpoint().url(masked=False), dbname=database, autocommit=True) as session:
        cursor = session.execute(sql.encode())
        row = cursor.fetchone() if cursor.description else None
        return row and row[0]


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
