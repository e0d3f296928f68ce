"""A database that is filled aside, and takes the place of the user's when it is whole.

Until that one commit the user's database is not touched, so nothing has to be taken back when a file fails, or a
client, a server or a machine dies: what was made aside is marked as ours, and dropped by whoever comes next.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from stack import snapshots
from stack.cluster import SETTINGS, Cluster, log_in
from stack.engine import Engine
from stack.process import StackError, beside
from stack.ready import LoginFailed
from stack.snapshots import FILLING, MAKING, MARK, ROLE, WORK

OPTIONS = (*SETTINGS, "synchronous_commit=off", "lc_messages=C")
"""Of the sessions that fill it. None of their commits has to wait for the disk, since the one that counts is ours, and
that waits for all before it; and their words are read here."""
PATIENCE = 10
"""Seconds that a login is kept waiting; after that it is refused, or those who wait would fill the server."""
TRIES = 3


class Aside:
    """The database aside, and the session that is about to exchange it for the user's."""

    def __init__(self, engine: Engine, cluster: Cluster, name: str) -> None:
        self.engine = engine
        self.cluster = cluster
        self.name = name
        self.made: list[str] = []
        """The roles that were made for it."""
        self.stuck = ""
        """The statement that waited for a lock which only the exchange gives free."""

    @property
    def login(self) -> dict[str, str]:
        """Return libpq's parameters for a client that fills it."""
        return {"dbname": self.name, "options": " ".join(f"-c {each}" for each in OPTIONS)}

    def missing(self, role: str) -> None:
        """Make a role that a file names and the server has not, without login.

        Its comment says for which database, so that it goes with that when the file fails. Raises StackError.
        """
        if role in self.made or self.cluster.rows("SELECT FROM pg_roles WHERE rolname = %s", role):
            return
        with self.cluster.transaction():
            self.cluster.run("CREATE ROLE {} NOLOGIN", role)
            self._comment_role(role, f'{ROLE}{self.name}"}}')
        self.made.append(role)

    def _comment_role(self, role: str, text: str | None, cluster: Cluster | None = None) -> None:
        from psycopg import sql

        statement = sql.SQL("COMMENT ON ROLE {} IS {}").format(sql.Identifier(role), sql.Literal(text))
        (cluster or self.cluster).connection.execute(statement)

    def put(self, cluster: Cluster) -> None:
        """Give it the user's name, within a transaction that has taken the user's database away."""
        comment, limit, template = snapshots.kept_marks(cluster)
        its_comment, its_limit, _ = cluster.marks(self.name)
        cluster.rename(self.name, cluster.database)
        # A comment and a limit that the file itself has set are its own.
        limit = limit if its_limit == FILLING else its_limit
        cluster.allow(cluster.database, anybody=True, limit=limit, template=template)
        if (its_comment or "").startswith(snapshots.COMMENT):
            cluster.set_comment(cluster.database, comment)
        for role in self.made:
            self._comment_role(role, None, cluster)


@contextmanager
def exchanged(engine: Engine, by: str, *, afresh: bool, room: int) -> Iterator[Aside]:
    """Give a database aside, to be filled, and put it in the place of the user's when this is left without an error.

    It is empty with `afresh`, else a copy of the user's, which nobody may then enter until this is left, since what
    they write would be lost. `by` is the command, as it is typed; `room` the bytes that are needed at least.
    """
    with log_in(engine, WORK) as cluster:
        if cluster.oid(cluster.database) is None:
            raise StackError(f"There is no database {cluster.database!r} to load into. Type `invoke doctor`.")
        snapshots._refuse_prepared(cluster, cluster.database)
        goes = snapshots._ask_what_goes(cluster, cluster.database, set(), keep=True, yes=False)
        snapshots._take_over(cluster)
        snapshots.make_room(engine, cluster, room)
        snapshots.in_background(engine)  # it waits for our lock, and clears up at once should we be killed
        with ExitStack() as stack:
            second = stack.enter_context(_second(cluster))
            stack.callback(_clear_up, cluster)
            place = Aside(engine, cluster, MAKING + uuid.uuid4().hex)
            if afresh:
                cluster.make_like(cluster.database, place.name, limit=MARK, comment=snapshots._comment())
            else:
                snapshots._tell(cluster)
                _copy_and_take_away(place, second, by)
            cluster.allow(place.name, anybody=True, limit=FILLING)
            with beside(lambda done: _watch(place, second.connection.info.backend_pid, done)):
                yield place
            snapshots._refuse_prepared(cluster, place.name)
            snapshots._ask_what_goes(cluster, cluster.database, goes, keep=True, yes=True)
            _exchange(place, second, by, taken_away=not afresh)
        snapshots._remember(engine, cluster)
    snapshots._go_on_in_background(engine)


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
    """Copy the user's database, and begin the transaction that takes it away, so that nobody can enter it any more.

    Those who waited for the copy may have entered between the two; when they have written, the copy is made anew.
    """
    cluster, database = place.cluster, place.cluster.database
    for _ in range(TRIES):
        cluster.end_sessions(cluster.oid(database))
        before = cluster.writes(database)
        place.name = snapshots._copy(place.engine, cluster, database, database, cluster.size(database))
        second.connection.execute("BEGIN")
        with second.alone(database):
            after = second.writes(database)
            snapshots.keep_back(second, by)
        if after == before:
            return
        second.connection.execute("ROLLBACK")
        _clear_up(cluster)
    raise StackError(
        f"Somebody wrote to {database} each of the {TRIES} times that it was being copied, and what they wrote would be"
        " lost. Nothing was done. End that program, then type the command again."
    )


def _exchange(place: Aside, second: Cluster, by: str, *, taken_away: bool) -> None:
    """Let the two databases exchange names, in one transaction."""
    import psycopg

    cluster, database = place.cluster, place.cluster.database
    ours = cluster.oid(place.name)
    cluster.end_sessions(ours)
    try:
        if taken_away:
            place.put(second)
            second.connection.execute("COMMIT")
            return
        snapshots._tell(cluster)
        with second.alone(database), second.transaction():
            snapshots.keep_back(second, by)
            place.put(second)
    except psycopg.OperationalError as error:
        if not _has(place.engine, database, ours, str(error)):
            raise


def _has(engine: Engine, database: str, oid: int | None, said: str) -> bool:
    """Return whether the database of that number has the user's name, after a connection broke at the exchange."""
    try:
        with log_in(engine, "invoke") as cluster:
            return cluster.oid(database) == oid
    except StackError as error:
        raise StackError(
            f"The server ended at the very moment when the new database was to take its place: {said.strip()}\nWhich of"
            f" the two has it now cannot be asked: {error.what}\nBoth are whole. Type `invoke up`, then `invoke"
            " snapshots`: when it was exchanged, that names what `invoke undo` brings back."
        ) from None


def _clear_up(cluster: Cluster) -> None:
    """Drop what was made aside and did not take its place, and the roles that were made for it."""
    import psycopg

    with suppress(psycopg.Error, LoginFailed):
        for each in snapshots._stored(cluster):
            if each.ours and each.name.startswith(MAKING):
                snapshots._drop(cluster, each)
        snapshots.drop_roles(cluster)


def _watch(place: Aside, holder: int, done: threading.Event) -> None:
    """Refuse logins that were kept waiting too long, and end what waits for a lock that the exchange alone gives free.

    Whoever waits has a place in the server, and a probe that comes every few seconds would take all of them.
    """
    import psycopg

    with suppress(psycopg.Error, LoginFailed), place.cluster.beside() as second:
        while not done.wait(0.5):
            second.execute(
                "SELECT pg_terminate_backend(l.pid) FROM pg_locks AS l JOIN pg_locks AS h"
                " USING (locktype, classid, objid) WHERE l.locktype = 'object' AND classid = 'pg_database'::regclass"
                " AND NOT l.granted AND l.waitstart < now() - make_interval(secs => %s)"
                " AND h.granted AND h.pid = %s AND h.mode = 'AccessExclusiveLock'",
                [PATIENCE, holder],
            )
            stuck = second.execute(
                "SELECT pg_cancel_backend(pid), query FROM pg_stat_activity WHERE datname = %s"
                " AND state_change < now() - interval '2 s' AND %s = ANY (pg_blocking_pids(pid))",
                [place.name, holder],
            ).fetchall()
            place.stuck = stuck[0][1] if stuck else place.stuck
