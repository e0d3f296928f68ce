"""On whom a session waits in the server, said while it waits."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from stack.ground.errors import printable
from stack.ground.talk import ago, say
from stack.ground.threads import beside
from stack.server.session import LoginFailed

if TYPE_CHECKING:
    from psycopg import Connection

FIRST, PAUSE, PATIENCE = 0.5, 0.5, 1.5
"""Seconds: until the first look, between two, and how long somebody must be seen in the way: two seconds in all."""
LONGEST = 100
"""Characters of a query that are shown."""
# One who waits may be waited for; those are named who wait for nobody. A prepared transaction has the pid 0.
_IN_THE_WAY = """
    WITH RECURSIVE waits(pid, holder) AS (
        SELECT pid, unnest(pg_blocking_pids(pid)) FROM pg_stat_activity
        WHERE pid = %(pid)s OR application_name = %(program)s
        UNION
        SELECT holder, unnest(pg_blocking_pids(holder)) FROM waits WHERE holder <> 0
    )"""
_SESSIONS = """
    SELECT pid, coalesce(nullif(application_name, ''), backend_type), usename::text, datname::text, state,
           extract(epoch FROM
               clock_timestamp() - CASE state WHEN 'active' THEN query_start ELSE state_change END)::float,
           query
    FROM pg_stat_activity WHERE """
_PREPARED = """
    SELECT gid, owner::text, database::text, extract(epoch FROM clock_timestamp() - prepared)::float
    FROM pg_prepared_xacts WHERE """
_WAITED_FOR = "pid IN (SELECT holder FROM waits) AND pid NOT IN (SELECT pid FROM waits)"
_HOLDERS = "".join((_IN_THE_WAY, _SESSIONS, _WAITED_FOR))
_PREPARED_WAITED_FOR = """transaction::text IN (
        SELECT whose.transactionid::text
        FROM waits JOIN pg_locks AS wanted ON wanted.pid = waits.pid AND NOT wanted.granted
             JOIN pg_locks AS had ON had.pid IS NULL AND had.granted AND had.locktype = wanted.locktype
                  AND (had.database, had.relation, had.transactionid, had.classid, had.objid)
                      IS NOT DISTINCT FROM
                      (wanted.database, wanted.relation, wanted.transactionid, wanted.classid, wanted.objid)
             JOIN pg_locks AS whose ON whose.pid IS NULL AND whose.locktype = 'transactionid'
                  AND whose.granted AND whose.virtualtransaction = had.virtualtransaction
        WHERE waits.holder = 0)"""
_PREPARED_HOLDERS = "".join((_IN_THE_WAY, _PREPARED, _PREPARED_WAITED_FOR))
_EVENTS = """
    SELECT wait_event FROM pg_stat_activity WHERE (pid = %(pid)s OR application_name = %(program)s)
           AND wait_event IN ('ProcSignalBarrier', 'SyncRep', 'CheckpointStart', 'CheckpointDone')"""
_MEANING = {
    "ProcSignalBarrier": "every session must take note, and one does not; `invoke logs postgres` names it",
    "SyncRep": "no standby of synchronous_standby_names has confirmed the commit",
    "CheckpointStart": "a checkpoint is to begin",
    "CheckpointDone": "a checkpoint is to be done",
}


class Session(NamedTuple):
    """A session: who it is, what it does or did last, since when."""

    pid: int
    program: str
    user: str | None
    database: str | None
    state: str | None
    seconds: float | None
    query: str | None

    def __str__(self) -> str:
        whose = (("user", self.user), ("database", self.database))
        who = ", ".join([self.program, *(f"{kind} {value}" for kind, value in whose if value)])
        since = f" for {_long(self.seconds)}" if self.seconds is not None else ""
        does = f", {self.state}{since}" if self.state else ""
        last = " ".join((self.query or "").split())
        last = f": {last[:LONGEST]}{'…' * (len(last) > LONGEST)}" if last else ""
        return printable(f"pid {self.pid} ({who}){does}{last}", one_line=True)

    @property
    def end(self) -> str:
        """What ends it."""
        return f'`invoke psql -c "SELECT pg_terminate_backend({self.pid})"`'


class Prepared(NamedTuple):
    """A prepared transaction, which holds its locks until somebody decides, and outlives the server."""

    gid: str
    owner: str
    database: str
    seconds: float

    def __str__(self) -> str:
        of = f"of {self.owner} in {self.database}"
        return printable(f"the prepared transaction {self.gid} {of}, {_long(self.seconds)} old", one_line=True)

    @property
    def end(self) -> str:
        """What ends it; to be typed in its own database."""
        return " or ".join(f"`invoke psql -c {shlex.quote(each)}`" for each in (self._sql("COMMIT"), self.rollback))

    @property
    def rollback(self) -> str:
        """The SQL that takes it back."""
        return self._sql("ROLLBACK")

    def _sql(self, verb: str) -> str:
        literal = self.gid.replace("'", "''")
        return f"{verb} PREPARED '{literal}'"


def blockers(connection: Connection[Any], *, pid: int = 0, program: str = "") -> list[str]:
    """Return who keeps the session `pid`, or those of a program, waiting: a sentence each, with the cure."""
    whom = {"pid": pid, "program": program or None}
    sessions = [Session(*row) for row in connection.execute(_HOLDERS, whom).fetchall()]
    prepared = [Prepared(*row) for row in connection.execute(_PREPARED_HOLDERS, whom).fetchall()]
    found = [f"{each}. Wait, or press Ctrl-C and type {each.end}, then this command again." for each in sessions]
    found += [f"{each}. Press Ctrl-C and type {each.end}, then this command again." for each in prepared]
    if not found:
        events = connection.execute(_EVENTS, whom).fetchall()
        found = [f"the server itself ({event}): {_MEANING[event]}." for (event,) in events]
    return found


def sessions_in(connection: Connection[Any], database: int | None) -> list[Session]:
    """Return the sessions on the database of that number, except this one."""
    where = "datid = %s::oid AND pid <> pg_backend_pid()"
    return [Session(*row) for row in connection.execute((_SESSIONS + where), [database]).fetchall()]


def prepared_in(connection: Connection[Any], database: int | None) -> list[Prepared]:
    """Return the prepared transactions of the database of that number."""
    where = "database = (SELECT datname FROM pg_database WHERE oid = %s::oid) ORDER BY prepared"
    return [Prepared(*row) for row in connection.execute((_PREPARED + where), [database]).fetchall()]


def _long(seconds: float) -> str:
    return ago(seconds).removesuffix(" ago")


class Teller:
    """Says who is in the way, once each, when they have been there for `PATIENCE` seconds."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._told: set[str] = set()

    def tell(self, found: list[str], *, patience: float = PATIENCE) -> None:
        """Take note of who is in the way now; the first words up to a comma tell them apart."""
        now = time.monotonic()
        keys = {words.partition(",")[0]: words for words in found}
        self._since = {key: self._since.get(key, now) for key in keys}
        for key, words in keys.items():
            if now - self._since[key] >= patience and key not in self._told:
                self._told.add(key)
                say(f"Waiting in the server for {words}")


@contextmanager
def watched(connect: Callable[[], Connection[Any]], *, pid: int = 0, program: str = "") -> Iterator[None]:
    """Tell on whom what is done within waits: the session `pid`, or those of a program.

    `connect` opens the second session, in a database that nobody is about to lock. It may raise LoginFailed.
    """
    with beside(lambda done: _watch(connect, pid, program, done), patience=PAUSE):  # what it still asks is of no use
        yield


def _watch(connect: Callable[[], Connection[Any]], pid: int, program: str, done: threading.Event) -> None:
    import psycopg

    if done.wait(FIRST):
        return
    teller = Teller()
    try:
        with suppress(psycopg.Error), connect() as second:
            while not done.wait(PAUSE):
                teller.tell(blockers(second, pid=pid, program=program))
    except LoginFailed as error:
        if not done.is_set():
            say(f"Whom this waits for in the server cannot be asked, since a second login fails: {error}")
