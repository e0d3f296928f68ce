"""The user's database copied and taken away, with nobody in it between the two: what they wrote would be lost."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from stack.ground.errors import StackError
from stack.ground.threads import beside
from stack.server.admin import Cluster
from stack.server.queries import GOT_IN, WRITES
from stack.server.session import LoginFailed
from stack.verbs import spares

if TYPE_CHECKING:
    from psycopg import Connection
    from typing_extensions import LiteralString

    from stack.verbs.filled import Aside

TRIES = 5


def copy_and_take_away(place: Aside, second: Cluster, by: str) -> None:
    """Copy the user's database, and begin the transaction that takes it away, with nobody in it between the two."""
    import psycopg

    cluster, database = place.cluster, place.cluster.database
    oid = cluster.oid(database)
    for attempt in range(TRIES):
        cluster.end_sessions(oid)
        queue = _Queue(place, second, by, oid)
        with beside(queue.wait):
            place.name = spares.make_copy(place.engine, cluster, database, database, cluster.size(database))
        try:
            queue.enter()
            if second.writes(oid) == queue.before:
                return
        except psycopg.errors.ObjectInUse:  # there were logins without end
            if attempt == TRIES - 1:
                raise
        second.connection.execute("ROLLBACK")
        spares.clear_making(cluster)
    raise StackError(
        f"Somebody wrote to {database} each of the {TRIES} times that it was being copied, and what they wrote would be"
        " lost. Nothing was done. End that program, then type the command again."
    )


class _Queue:
    """The session that is to have the user's database as soon as it is copied, before anybody else has it."""

    def __init__(self, place: Aside, second: Cluster, by: str, oid: int | None) -> None:
        self._place, self._second, self._by, self._oid = place, second, by, oid
        self._entered = False
        self.before = place.cluster.writes(oid)
        """What had been written when the copy was made; `wait` looks again while it is being made."""
        self._failed: list[Exception] = []

    def enter(self) -> None:
        """Take the database away now, if that has not been done. Raises what went wrong."""
        if self._failed:
            raise self._failed[0]
        if not self._entered:
            with self._second.alone(self._place.cluster.database):
                self._take()

    def _take(self) -> None:
        self._entered = True
        self._second.connection.execute("BEGIN")
        self._place.keep_back(self._second, self._by, shut=False)

    def wait(self, done: threading.Event) -> None:
        """Wait in the server until it has been copied, from the moment on that the copy has its lock."""
        import psycopg

        copying: LiteralString = (
            "SELECT FROM pg_locks WHERE pid = %s AND granted AND locktype = 'object' AND objid = %s::oid"
            " AND classid = 'pg_database'::regclass AND mode = 'ShareLock'"
        )
        ours = [self._place.cluster.connection.info.backend_pid, self._oid]
        try:
            with self._place.cluster.beside() as third:
                while not third.execute(copying, ours).fetchall():
                    if done.wait(0.002):
                        return
                with beside(lambda over: self._turn_away(third, over)):
                    self._take()
        except (psycopg.Error, LoginFailed) as error:
            self._failed.append(error)

    def _turn_away(self, third: Connection[Any], over: threading.Event) -> None:
        """Refuse the logins that came before us: they would get in first, and write what nobody has copied."""
        import psycopg

        before_us: LiteralString = (
            "SELECT pg_terminate_backend(l.pid) FROM pg_locks AS l, pg_locks AS us WHERE us.pid = %s"
            " AND NOT us.granted AND NOT l.granted AND l.pid <> us.pid AND l.locktype = 'object'"
            " AND l.classid = 'pg_database'::regclass AND l.objid = %s::oid AND l.waitstart <= us.waitstart"
        )
        us = self._second.connection.info.backend_pid
        with suppress(psycopg.Error):
            while not over.wait(0.002):
                third.execute(before_us, [us, self._oid])
                now = third.execute(WRITES, [self._oid]).fetchone() or ()
                if third.execute("SELECT FROM pg_locks WHERE pid = %s AND NOT granted", [us]).fetchall():
                    self.before = now
                else:
                    third.execute(GOT_IN, [self._oid])
