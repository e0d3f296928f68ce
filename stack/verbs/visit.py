"""Lets sessions of ours into a snapshot, which nobody may enter: the server itself shuts it again behind them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from stack.ground.errors import StackError
from stack.ground.threads import beside
from stack.server.admin import Cluster
from stack.server.session import LoginFailed
from stack.verbs.store import MAKER, all_stored

PATIENCE = 10
"""Seconds that a client program may take to its login."""
# One statement, which the server works off to its end when this process is killed in the middle of it. A session that
# is in stays in; whoever else has come in meanwhile goes. MAKER is held by the session {session} as long as we live.
_DOORKEEPER = """
DO $stack$
DECLARE
    latest timestamptz := clock_timestamp() + make_interval(secs => {patience});
    programs text[] := {programs};
BEGIN
    ALTER DATABASE {database} ALLOW_CONNECTIONS true;
    COMMIT;
    WHILE clock_timestamp() < latest
        AND EXISTS (SELECT FROM pg_locks WHERE pid = {session} AND locktype = 'advisory' AND granted
                    AND objid = {maker} AND classid = 0)
        AND (SELECT count(DISTINCT application_name) FROM pg_stat_activity
             WHERE datname = {name} AND application_name = ANY (programs)) < cardinality(programs)
    LOOP
        PERFORM pg_sleep(0.005), pg_stat_clear_snapshot();
    END LOOP;
    ALTER DATABASE {database} ALLOW_CONNECTIONS false;
    COMMIT;
    PERFORM pg_stat_clear_snapshot();
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = {name} AND backend_type = 'client backend' AND application_name <> ALL (programs);
END $stack$
"""


@contextmanager
def undisturbed(cluster: Cluster) -> Iterator[None]:
    """Keep everybody from making and dropping our databases meanwhile.

    What a server that was killed has left open is shut.
    """
    import psycopg

    cluster.rows("SELECT pg_advisory_lock(%s)", MAKER)
    try:
        for each in all_stored(cluster):
            if each.is_snapshot and each.enterable:
                _shut(cluster, each.name)
        yield
    finally:
        with suppress(psycopg.Error):
            cluster.rows("SELECT pg_advisory_unlock(%s)", MAKER)


@contextmanager
def opened(cluster: Cluster, database: str, programs: Sequence[str]) -> Iterator[None]:
    """Let one session of each of these programs into a snapshot; to be called when `undisturbed`.

    It is shut as soon as they are all in, and when this is left, and when this process is killed. Raises StackError.
    """
    import psycopg
    from psycopg import sql

    failed = list[Exception]()
    statement = sql.SQL(_DOORKEEPER).format(
        database=sql.Identifier(database), name=sql.Literal(database), programs=sql.Literal(list(programs)),
        patience=sql.Literal(PATIENCE), session=sql.Literal(cluster.connection.info.backend_pid),
        maker=sql.Literal(MAKER),
    )  # fmt: skip

    def keep() -> None:
        try:
            with cluster.beside() as second:
                second.execute("SET client_connection_check_interval = 0")  # the server would notice that we are dead
                second.execute(statement)
        except (psycopg.Error, LoginFailed) as error:
            failed.append(error)

    with _shut_in_the_end(cluster, database, failed), beside(lambda _: keep()):
        try:
            while not cluster.rows("SELECT FROM pg_database WHERE datname = %s AND datallowconn", database):
                if failed:
                    raise StackError(
                        f"The snapshot could not be looked into: {str(failed[0]).strip()} Nothing was changed."
                    )
                time.sleep(0.002)
            yield
        finally:
            with suppress(psycopg.Error):  # the one who keeps the door sees it, and shuts it
                cluster.rows("SELECT pg_advisory_unlock(%s)", MAKER)


@contextmanager
def _shut_in_the_end(cluster: Cluster, database: str, failed: Sequence[Exception]) -> Iterator[None]:
    """Shut it from here, where the server could not: somebody may have ended that session."""
    try:
        yield
    finally:
        if failed:
            _shut(cluster, database)


def _shut(cluster: Cluster, database: str) -> None:
    cluster.run("ALTER DATABASE {} ALLOW_CONNECTIONS false", database)
