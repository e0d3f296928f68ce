"""Who keeps a session waiting, on a real PostgreSQL 17."""

from __future__ import annotations

import re
import shlex
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stack.engines.embedded.engine import Embedded
from stack.ground.errors import printable
from stack.ground.run import look
from stack.server import waits
from stack.verbs import up
from tests.unit.conftest import embedded

pytestmark = [pytest.mark.xdist_group("blocked"), pytest.mark.slow]


@pytest.fixture(scope="module")
def server(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with embedded(programs, tmp_path_factory.mktemp("blocked")) as made:
        up.bring_up(made, 30, pull=False, wait=True)
        with login(made) as session:
            session.execute("ALTER SYSTEM SET max_prepared_transactions = 5")
            session.execute("CREATE TABLE t (n int)")
        made.stop()
        up.bring_up(made, 30, pull=False, wait=True)
        yield made


def login(engine: Embedded, **words: Any) -> psycopg.Connection[Any]:
    return psycopg.connect(engine.endpoint().url(masked=False), autocommit=True, **words)


@contextmanager
def waiting(engine: Embedded, statement: str) -> Iterator[psycopg.Connection[Any]]:
    """A session that waits for a lock until this is left."""
    with login(engine, application_name="the waiter") as session:
        thread = threading.Thread(target=lambda: session.execute(statement.encode()), daemon=True)
        thread.start()
        try:
            yield session
            thread.join(20)
            assert not thread.is_alive()
        finally:
            session.cancel_safe()


def typed(engine: Embedded, sentence: str) -> None:
    """Type the first cure of a sentence, with psql itself."""
    found = re.search(r"`invoke psql (.*?)`", sentence)
    assert found
    client = engine.client("psql", *shlex.split(found[1]))
    assert look(client.argv, client.env).returncode == 0


def test_a_session_is_named_with_what_it_does_and_since_when(
    server: Embedded, capsys: pytest.CaptureFixture[str]
) -> None:
    holder = login(server, application_name="nightly\x1b[31m job")
    holder.execute("BEGIN")
    holder.execute("LOCK TABLE\n t")
    with waiting(server, "SELECT FROM t") as session, login(server) as beside:
        pid = session.info.backend_pid
        with waits.watched(lambda: login(server), pid=pid):
            time.sleep(1.5)
            assert capsys.readouterr().err == ""
            time.sleep(1.5)
            time.sleep(1)  # said once
            (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith(f"Waiting in the server for pid {holder.info.backend_pid} (nightly")
        assert "user postgres, database convex_poc), idle in transaction for" in said
        assert "s: LOCK TABLE t. Wait, or" in said
        assert said == printable(said)
        assert waits.blockers(beside, program="the waiter")
        typed(server, said)
    with pytest.raises(psycopg.OperationalError):
        holder.execute("SELECT 1")


def test_the_last_of_a_queue_is_told_who_is_first(server: Embedded) -> None:
    with login(server) as beside, login(server, application_name="first") as first:
        first.execute("BEGIN")
        first.execute("SELECT FROM t")
        with waiting(server, "BEGIN; LOCK TABLE t; COMMIT"):
            time.sleep(0.2)
            with waiting(server, "SELECT FROM t") as last:
                time.sleep(0.2)
                (said,) = waits.blockers(beside, pid=last.info.backend_pid)
                assert said.startswith(f"pid {first.info.backend_pid} (first, ")
                first.execute("COMMIT")


def test_a_prepared_transaction_is_named(server: Embedded) -> None:
    with login(server) as holder:
        holder.execute("BEGIN")
        holder.execute("LOCK TABLE t")
        holder.execute("PREPARE TRANSACTION 'it''s \"mine\"'")
    with waiting(server, "SELECT FROM t") as session, login(server) as beside:
        time.sleep(0.2)
        (said,) = waits.blockers(beside, pid=session.info.backend_pid)
        assert said.startswith('the prepared transaction it\'s "mine" of postgres in convex_poc, ')
        typed(server, said)


def test_whoever_waits_for_nobody_is_told_nothing(server: Embedded) -> None:
    with login(server) as session, login(server) as beside:
        assert waits.blockers(beside, pid=session.info.backend_pid) == []
        assert waits.blockers(beside, program="nobody") == []
