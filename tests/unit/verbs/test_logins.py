"""Logins beside copies and exchanges of names, on a real PostgreSQL 17: who waits gets in."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from stack.engines.embedded.engine import Embedded
from stack.verbs import restore as restore_room
from stack.verbs import snapshots, spares, up
from stack.verbs.login import administrator
from tests.unit.conftest import embedded

if TYPE_CHECKING:
    from typing_extensions import Self

pytestmark = [pytest.mark.xdist_group("logins"), pytest.mark.slow]  # they share a server

WAITING = """
SELECT w.pid FROM pg_locks AS w JOIN pg_locks AS h USING (classid, objid)
WHERE w.classid = 'pg_database'::regclass AND w.objid = (SELECT oid FROM pg_database WHERE datname = 'convex_poc')
      AND NOT w.granted AND w.mode = 'RowExclusiveLock' AND h.granted AND h.mode = 'ShareLock'
"""
"""The logins that wait for a copy which has its lock."""


@pytest.fixture(scope="module")
def server(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with embedded(programs, tmp_path_factory.mktemp("logins")) as made:
        up.bring_up(made, 30, pull=False, wait=True)
        with administrator(made, "test") as cluster:
            cluster.run("ALTER SYSTEM SET fsync = off")  # no power is cut here
            cluster.rows("SELECT pg_reload_conf()")
        yield made


class Clients:
    """Programs that log in again and again, ask something for 50 ms, and log in again."""

    def __init__(self, engine: Embedded, number: int) -> None:
        self.url = engine.endpoint().url(masked=False)
        self.told: Counter[str] = Counter()
        self.ended: set[int] = set()
        self.shut_out: list[str] = []
        """What those were told who were not let in when they tried once more."""
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(number)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                session = psycopg.connect(self.url, autocommit=True, connect_timeout=60)
            except psycopg.OperationalError as first:
                self.told["refused" if "does not exist" in str(first) else "ended at login"] += 1
                try:
                    session = psycopg.connect(self.url, autocommit=True, connect_timeout=60)
                except psycopg.OperationalError as error:
                    self.shut_out.append(str(error))
                    continue
            self._ask(session)

    def _ask(self, session: psycopg.Connection[object]) -> None:
        pid = session.info.backend_pid
        self.told["in"] += 1
        try:
            with session:
                for _ in range(5):
                    session.execute("SELECT 1")
                    time.sleep(0.01)
        except psycopg.OperationalError:
            self.ended.add(pid)


def test_a_client_that_tries_once_more_gets_in_while_names_are_exchanged(
    server: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each exchange refused nearly all who came in the tenth of a second in which PostgreSQL looks for sessions."""
    monkeypatch.setattr(spares, "go_on_in_background", spares.keep_ready)
    snapshots.take(server, "one", overwrite=True)
    with Clients(server, 4) as clients:
        for _ in range(10):
            time.sleep(0.1)
            restore_room.restore(server, "one")
    assert not clients.shut_out
    assert clients.told["in"] > 40
    assert clients.told["refused"] <= 5, clients.told  # of a machine that is too busy to empty it in time


def test_nobody_who_has_waited_for_a_copy_is_ended_when_it_is_made(server: Embedded) -> None:
    waited: set[int] = set()
    copied = threading.Event()

    def watch() -> None:
        with psycopg.connect(server.endpoint().url(masked=False), dbname="postgres", autocommit=True) as beside:
            while not copied.is_set():
                waited.update(pid for (pid,) in beside.execute(WAITING))
                time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with Clients(server, 6) as clients, administrator(server, "test") as cluster:
            for _ in range(10):
                cluster.copy("convex_poc", "copied", limit=-1, comment="")
                cluster.run("DROP DATABASE {}", "copied")
                time.sleep(0.3)  # all of those are gone before the next copy ends who is there
    finally:
        copied.set()
        watcher.join()
    assert waited, "nobody waited, so nothing was tried"
    assert not waited & clients.ended
    assert not clients.shut_out


@contextmanager
def reader_of_names(engine: Embedded) -> Iterator[None]:
    """A session that keeps reading the list of databases, as pg_dump does."""
    with psycopg.connect(engine.endpoint().url(masked=False), dbname="postgres") as reader:
        reader.execute("SELECT count(*) FROM pg_database")
        yield


def test_whoever_reads_the_list_of_databases_holds_nobody_up(server: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spares, "go_on_in_background", spares.keep_ready)
    snapshots.take(server, "one", overwrite=True)
    slowest = 0.0
    with ExitStack() as held, Clients(server, 2) as clients:
        held.enter_context(reader_of_names(server))
        exchange = threading.Thread(target=lambda: restore_room.restore(server, "one"))
        exchange.start()
        while exchange.is_alive():
            begun = time.monotonic()
            psycopg.connect(server.endpoint().url(masked=False), dbname="template1").close()
            slowest = max(slowest, time.monotonic() - begun)
    assert slowest < 2
    assert not clients.shut_out
