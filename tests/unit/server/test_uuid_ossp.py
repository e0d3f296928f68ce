"""uuid-ossp where PostgreSQL was built without it: the values are RFC 4122's, the functions those of the original."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, strategies
from hypothesis import settings as examples

from stack.server import uuid_ossp
from stack.verbs import up
from tests.unit.conftest import embedded

pytestmark = [pytest.mark.xdist_group("uuid-ossp"), pytest.mark.slow]

ORIGINAL = {  # \df of PostgreSQL's own: arguments, volatile or immutable
    "uuid_generate_v1": ("", "v"),
    "uuid_generate_v1mc": ("", "v"),
    "uuid_generate_v3": ("namespace uuid, name text", "i"),
    "uuid_generate_v4": ("", "v"),
    "uuid_generate_v5": ("namespace uuid, name text", "i"),
    "uuid_nil": ("", "i"),
    "uuid_ns_dns": ("", "i"),
    "uuid_ns_oid": ("", "i"),
    "uuid_ns_url": ("", "i"),
    "uuid_ns_x500": ("", "i"),
}


@pytest.fixture(scope="module")
def session(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[psycopg.Connection[Any]]:
    with embedded(programs, tmp_path_factory.mktemp("uuid")) as made:
        up.bring_up(made, 30, pull=False, wait=True)
        with psycopg.connect(made.endpoint().url(masked=False), autocommit=True) as session:
            session.execute('CREATE SCHEMA odd; CREATE EXTENSION "uuid-ossp" SCHEMA odd')
            yield session


def one(session: psycopg.Connection[Any], query: str, *values: object) -> Any:
    row = session.execute(query.encode(), values).fetchone()
    return row and row[0]


def test_the_functions_are_those_of_the_original(session: psycopg.Connection[Any]) -> None:
    rows = session.execute(
        "SELECT proname, pg_get_function_arguments(oid), provolatile::text, proisstrict, proparallel::text,"
        " prorettype::regtype::text FROM pg_proc WHERE pronamespace = 'odd'::regnamespace AND proname !~ '^uuid_ossp'"
    ).fetchall()
    assert {row[0]: row[1:3] for row in rows} == ORIGINAL
    assert {row[3:] for row in rows} == {(True, "s", "uuid")}
    assert one(session, "SELECT extversion FROM pg_extension WHERE extname = 'uuid-ossp'") == "1.1"


@examples(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(space=strategies.uuids(), name=strategies.text(strategies.characters(exclude_characters="\0", codec="utf-8")))
def test_names_give_what_python_gives(session: psycopg.Connection[Any], space: uuid.UUID, name: str) -> None:
    assert one(session, "SELECT odd.uuid_generate_v3(%s, %s)", space, name) == uuid.uuid3(space, name)
    assert one(session, "SELECT odd.uuid_generate_v5(%s, %s)", space, name) == uuid.uuid5(space, name)


def test_the_name_spaces_are_those_of_the_standard(session: psycopg.Connection[Any]) -> None:
    known = {
        "dns": uuid.NAMESPACE_DNS,
        "url": uuid.NAMESPACE_URL,
        "oid": uuid.NAMESPACE_OID,
        "x500": uuid.NAMESPACE_X500,
    }
    for name, value in known.items():
        assert one(session, f"SELECT odd.uuid_ns_{name}()") == value
    assert one(session, "SELECT odd.uuid_nil()").int == 0


def test_those_by_time_tell_the_time_and_are_never_alike(session: psycopg.Connection[Any]) -> None:
    for version in ("v1", "v1mc"):
        rows = session.execute(
            f"SELECT odd.uuid_generate_{version}() FROM generate_series(1, 20000)".encode()
        ).fetchall()
        made = [row[0] for row in rows]
        assert len(set(made)) == 20000
        assert {(each.version, each.variant, each.node >> 40 & 1) for each in made} == {(1, uuid.RFC_4122, 1)}
        assert [each.time for each in made] == sorted(each.time for each in made)
    assert abs(made[-1].time - uuid.uuid1().time) < 60 * 10**7
    assert one(session, "SELECT odd.uuid_generate_v4()").version == 4


def test_a_search_path_and_another_schema_change_nothing(session: psycopg.Connection[Any]) -> None:
    with session.transaction(force_rollback=True):
        session.execute(
            "CREATE SCHEMA evil; CREATE FUNCTION evil.md5(bytea) RETURNS text LANGUAGE sql AS $$SELECT 'x'$$"
        )
        session.execute('ALTER EXTENSION "uuid-ossp" SET SCHEMA evil; SET search_path = evil, pg_catalog')
        assert one(session, "SELECT uuid_generate_v3(uuid_ns_dns(), 'x')") == uuid.uuid3(uuid.NAMESPACE_DNS, "x")
        session.execute('DROP EXTENSION "uuid-ossp"')


def test_an_owner_who_is_no_superuser_makes_it_as_the_original(session: psycopg.Connection[Any]) -> None:
    with session.transaction(force_rollback=True):
        session.execute('DROP EXTENSION "uuid-ossp"')
        session.execute("CREATE ROLE plain; GRANT CREATE ON DATABASE convex_poc TO plain")
        session.execute("GRANT CREATE ON SCHEMA public TO plain; SET ROLE plain")
        session.execute('CREATE EXTENSION "uuid-ossp" SCHEMA public')
        assert one(session, "SELECT public.uuid_generate_v5(public.uuid_nil(), 'x')").version == 5


def test_it_is_put_only_where_it_is_lacking_and_where_we_may(tmp_path: Path) -> None:
    programs, folder = tmp_path / "bin", tmp_path / "share" / "extension"
    uuid_ossp.add(programs)
    assert not folder.exists()
    folder.mkdir(parents=True)
    uuid_ossp.add(programs)
    assert sorted(path.name for path in folder.iterdir()) == ["uuid-ossp--1.1.sql", "uuid-ossp.control"]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    (folder / "uuid-ossp.control").write_text("another's")
    uuid_ossp.add(programs)
    assert (folder / "uuid-ossp.control").read_text() == "another's"
