"""A pool where something is in its way, on a real PostgreSQL 17; its keeper is a thread."""

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest

from stack.engines.embedded.engine import Embedded
from stack.ground.errors import Refused, StackError
from stack.server.admin import Cluster
from stack.verbs import keeper, leases, pool, snapshots, spares, up
from stack.verbs.login import administrator
from tests.unit.conftest import embedded

pytestmark = [pytest.mark.xdist_group("pool"), pytest.mark.slow]


@pytest.fixture(scope="module")
def server(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with embedded(programs, tmp_path_factory.mktemp("pool")) as made:
        up.bring_up(made, 30, pull=False, wait=True)
        with beside(made) as session:
            session.execute("ALTER SYSTEM SET fsync = off")
            session.execute("SELECT pg_reload_conf()")
        yield made


@pytest.fixture
def engine(server: Embedded, monkeypatch: pytest.MonkeyPatch) -> Iterator[Embedded]:
    """The server with the snapshot one, and without a pool in the end."""
    threads = list[threading.Thread]()

    def in_background(engine: Embedded, work: str = "") -> None:
        threads.append(threading.Thread(target=keeper.keep, args=[engine]))
        threads[-1].start()

    monkeypatch.setattr(spares, "in_background", in_background)
    monkeypatch.setattr(spares, "go_on_in_background", lambda _: None)
    snapshots.take(server, "one", overwrite=True)
    yield server
    monkeypatch.undo()
    with administrator(server, "test") as cluster:
        leases.end(cluster)
    for each in threads:
        each.join(20)
        assert not each.is_alive()


def beside(engine: Embedded) -> psycopg.Connection[Any]:
    return psycopg.connect(engine.endpoint().url(masked=False), dbname="postgres", autocommit=True)


def take(session: psycopg.Connection[Any]) -> str:
    return str(session.execute("SELECT stack.take()").fetchall()[0][0])


def test_without_room_no_pool_begins_and_none_goes_on(
    engine: Embedded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(spares, "room_left", lambda *_: spares.MARGIN + 20_000_000)
        with pytest.raises(StackError, match="no room for 16 databases like one: each takes"):
            pool.make(engine, "one", 16)
    pool.make(engine, "one", 2)
    with beside(engine) as session, monkeypatch.context() as patched:
        first = take(session), take(session)
        patched.setattr(spares, "room_left", lambda *_: spares.MARGIN)
        session.execute("SELECT stack.give(%s)", [first[0]])
        with pytest.raises(psycopg.Error, match="No database of the pool is ready: there is no room: a copy takes"):
            take(session)
        pool.print_it(engine, as_json=False)
        assert "No more can be made now: there is no room" in capsys.readouterr().err
        patched.undo()
        pool.make(engine, "one", 3)
        assert take(session) not in first


def test_where_the_schema_was_dropped_nothing_used_is_handed_out(engine: Embedded) -> None:
    pool.make(engine, "one", 2)
    with beside(engine) as session:
        used = take(session)
        session.execute("DROP SCHEMA stack CASCADE")
        pool.make(engine, "one", 3)
        assert take(session) != used


def test_the_database_postgres_is_not_the_users(engine: Embedded) -> None:
    with pytest.raises(Refused, match="which is the one that POSTGRES_DB names"):
        leases.check(cast("Cluster", SimpleNamespace(configured="postgres")))
    other = SimpleNamespace(configured="x", connection=SimpleNamespace(info=SimpleNamespace(dbname="template1")))
    with pytest.raises(Refused, match=r"there is none.*CREATE DATABASE postgres"):
        leases.check(cast("Cluster", other))


def test_what_somebody_has_written_into_the_comment_is_no_pool(engine: Embedded) -> None:
    pool.make(engine, "one", 1)
    with beside(engine) as session, administrator(engine, "test") as cluster:
        for text in ('{"stack": 2, "pool": 1}', '{"stack": 2, "pool": {"of": "x", "size": "2"}}', '{"stack": 2}'):
            session.execute(f"COMMENT ON SCHEMA stack IS '{text}'".encode())
            assert leases.pool_of(cluster) is None
        with pytest.raises(psycopg.Error, match="There is no pool"):
            take(session)


@pytest.mark.parametrize("typed", ["0", "-1", "1001", "many", "1.5"])
def test_a_size_that_is_no_number_of_copies_is_refused(typed: str) -> None:
    with pytest.raises(Refused, match=rf"--size {typed} is no number of copies: from 1 to 1000"):
        pool.wanted(typed)
    assert (pool.wanted(""), pool.wanted("1000")) == (pool.SIZE, 1000)
