"""A database that is filled aside, and takes the place of the user's when it is whole.

Until that one commit the user's database is not touched, so nothing has to be taken back when a file fails, or a
client, a server or a machine dies: what was made aside is marked as ours, and dropped by whoever comes next.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stack.engines.base import Engine
from stack.ground.errors import StackError
from stack.ground.threads import beside
from stack.server.admin import Cluster
from stack.server.queries import GOT_IN, SETTINGS, STUCK, TOO_LONG, WRITES
from stack.server.session import LoginFailed
from stack.verbs import drop, exchange, made_roles, spares, store
from stack.verbs.arriving import Arriving
from stack.verbs.login import administrator
from stack.verbs.store import FILLING, MAKING, MARK

if TYPE_CHECKING:
    from psycopg import Connection
    from typing_extensions import LiteralString

OPTIONS = (*SETTINGS, "synchronous_commit=off", "lc_messages=C")
"""Of the sessions that fill it: the commit that counts is ours, and waits for all before it. Their words are read."""
PATIENCE = 10
"""Seconds that a login is kept waiting; after that it is refused, or those who wait would fill the server."""
TRIES = 5


class Aside:
    """The database aside, and the session that is about to exchange it for the user's."""

    def __init__(self, engine: Engine, cluster: Cluster, name: str) -> None:
        self.engine = engine
        self.cluster = cluster
        self.name = name
        self.made: list[str] = []
        """The roles that were made for it."""
        self.read: set[Path] = set()
        """The files that what filled it names."""
        self.half: Arriving | None = None
        """What of Convex goes with it."""
        self.kept = self.half_kept = False
        """Whether `undo` brings back what it replaces; or of that, Convex alone."""
        self.stuck = ""
        """The statement that waited for a lock which only the exchange gives free."""

    @property
    def login(self) -> dict[str, str]:
        """Return libpq's parameters for a client that fills it."""
        return {"dbname": self.name, "options": " ".join(f"-c {each}" for each in OPTIONS)}

    def missing(self, role: str) -> bool:
        """Make a role that a file names and the server has not; return whether that was done. Raises StackError."""
        if role in self.made or not made_roles.make(self.cluster, role, self.name):
            return False
        self.made.append(role)
        return True

    def drop_public(self) -> None:
        """Make room for an archive's own schema `public`; where there is something in it, pg_restore says so."""
        from psycopg import Error

        with self.cluster.within(self.name) as session, suppress(Error):
            session.execute("DROP SCHEMA public")

    def keep_back(self, cluster: Cluster, by: str, *, shut: bool) -> None:
        """Take the user's database out of its place, within the transaction that exchanges it."""
        self.kept = drop.keep_back(cluster, by, shut=shut, half=self.half.kept if self.half else drop.Beside())

    def make_ready(self, cluster: Cluster) -> None:
        """Let it be as the user's is, within the transaction that gives it the user's name in the end."""
        comment, limit, template = self.marks(cluster)
        cluster.allow(self.name, anybody=True, limit=limit, template=template)
        cluster.set_comment(self.name, comment)
        made_roles.keep(cluster, self.name)

    def marks(self, cluster: Cluster) -> tuple[str | None, int, bool]:
        """Return the comment, the connection limit and the mark as a template that it is to have in the end."""
        comment, limit, template = self.cluster.marks(cluster.database)  # which does not see what is not committed
        its_comment, its_limit, _ = cluster.marks(self.name)
        # A comment and a limit that the file itself has set are its own.
        ours = (its_comment or "").startswith(store.COMMENT)
        return comment if ours else its_comment, limit if its_limit == FILLING else its_limit, template


@contextmanager
def exchanged(
    engine: Engine, by: str, *, afresh: bool, room: int, yes: bool, half: Arriving | None = None
) -> Iterator[Aside]:
    """Give a database aside, to be filled, and put it in the place of the user's when this is left without an error.

    A `half` goes with it: Convex's directory. The database is empty with `afresh`, else a copy of the user's, which
    nobody may then enter until this is left, since what they write would be lost. `by` is the command, as it is typed;
    `room` the bytes that are needed at least.
    """
    with exchange.at_work(engine) as cluster:
        if cluster.oid(cluster.database) is None:
            raise StackError(f"There is no database {cluster.database!r} to load into. Type `invoke doctor`.")
        spares.refuse_prepared(cluster, cluster.database)
        goes = spares.ask_what_goes(cluster, cluster.database, set(), keep=False, yes=yes)
        spares.take_over(cluster)
        spares.make_room(engine, cluster, room)
        spares.in_background(engine)  # it waits for our lock, and clears up at once should we be killed
        with ExitStack() as stack:
            before = made_roles.there(cluster)
            stack.push(lambda kind, *_: spares.clear_making(cluster, before if kind else None))
            # It ends first: what a Ctrl-C has left open in it would keep the clearing up waiting for ever.
            second = stack.enter_context(_second(cluster))
            place = Aside(engine, cluster, MAKING + uuid.uuid4().hex)
            place.half = half
            if afresh:
                cluster.make_like(cluster.database, place.name, limit=MARK, comment=store.made_comment())
            else:
                spares.tell_sessions(cluster)
                _copy_and_take_away(place, second, by)
            cluster.allow(place.name, anybody=True, limit=FILLING)
            with beside(lambda done: _watch(place, second.connection.info.backend_pid, done)):
                yield place
            spares.refuse_prepared(cluster, place.name)
            spares.ask_what_goes(cluster, cluster.database, goes, keep=False, yes=yes)
            _exchange(place, second, by, taken_away=not afresh)
        spares.tell_and_tidy(engine, cluster)
        made_roles.tell_shut_out(cluster, place.made)
    spares.go_on_in_background(engine)


@contextmanager
def _second(cluster: Cluster) -> Iterator[Cluster]:
    """Give one more session, for the exchange: what it has not committed when it ends has not happened."""
    try:
        second = cluster.again()
    except LoginFailed as error:
        raise StackError(f"The database does not let us in a second time:\n{error}") from None
    try:
        yield second
    finally:
        second.connection.close()


def _copy_and_take_away(place: Aside, second: Cluster, by: str) -> None:
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


def _exchange(place: Aside, second: Cluster, by: str, *, taken_away: bool) -> None:
    """Let the two databases exchange names, in one transaction."""
    import psycopg

    cluster, database, half = place.cluster, place.cluster.database, place.half
    ours = cluster.oid(place.name)
    cluster.end_sessions(ours)
    # Without the database `undo` still brings Convex back, for which another one stands.
    alone = half and (not place.kept if taken_away else drop.what_goes(cluster, database))
    stand_in = drop.make_stand_in(cluster, place.name, half.kept) if half and alone else ""
    along = half.along(cluster, place.name) if half else nullcontext()
    try:
        if taken_away:
            with along:
                place.make_ready(second)
                _become(place, second, by, stand_in)
                second.connection.execute("COMMIT")
            return
        spares.tell_sessions(cluster)
        with along, second.alone(database), second.transaction():
            place.make_ready(second)
            place.keep_back(second, by, shut=True)
            _become(place, second, by, stand_in)
    except psycopg.OperationalError as error:
        if not _has(place.engine, database, ours, str(error)):
            raise


def _become(place: Aside, second: Cluster, by: str, stand_in: str) -> None:
    """Give the database aside the name of the user's, which has another one by now, within a transaction."""
    if place.half and stand_in and not place.kept:
        drop.keep_convex_back(second, stand_in, by, place.half.kept)
        place.half_kept = True
    second.rename(place.name, place.cluster.database)


def _has(engine: Engine, database: str, oid: int | None, said: str) -> bool:
    """Return whether the database of that number has the user's name, after a connection broke at the exchange."""
    try:
        with administrator(engine, "invoke") as cluster:
            return cluster.oid(database) == oid
    except StackError as error:
        raise StackError(
            f"The server ended at the very moment when the new database was to take its place: {said.strip()}\nWhich of"
            f" the two has it now cannot be asked: {error.what}\nBoth are whole. Type `invoke up`, then `invoke"
            " snapshots`: when it was exchanged, that names what `invoke undo` brings back."
        ) from None


def _watch(place: Aside, holder: int, done: threading.Event) -> None:
    """Refuse logins that were kept waiting too long, and end what waits for a lock that the exchange alone gives free.

    Whoever waits has a place in the server, and a probe that comes every few seconds would take all of them.
    """
    import psycopg

    with suppress(psycopg.Error, LoginFailed), place.cluster.beside() as second:
        while not done.wait(0.5):
            second.execute(TOO_LONG, [holder, PATIENCE])
            for query, pid in second.execute(STUCK, [place.name, holder]).fetchall():
                place.stuck = query  # before it fails, and is asked after
                second.execute("SELECT pg_cancel_backend(%s)", [pid])
