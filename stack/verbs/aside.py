"""A database that is filled aside, and takes the place of the user's when it is whole.

Until that one commit the user's database is not touched, so nothing has to be taken back when a file fails, or a
client, a server or a machine dies: what was made aside is marked as ours, and dropped by whoever comes next.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress

from stack.engines.base import Engine
from stack.ground.errors import StackError
from stack.ground.threads import beside
from stack.server.admin import Cluster
from stack.server.queries import STUCK, TOO_LONG
from stack.server.session import LoginFailed
from stack.verbs import drop, exchange, made_roles, queue, spares
from stack.verbs.arriving import Arriving
from stack.verbs.filled import Aside
from stack.verbs.login import administrator
from stack.verbs.store import FILLING, MAKING

PATIENCE = 10
"""Seconds that a login is kept waiting; after that it is refused, or those who wait would fill the server."""


@contextmanager
def exchanged(
    engine: Engine,
    by: str,
    *,
    make: Callable[[Aside], object] | None,
    room: int,
    yes: bool,
    half: Arriving | None = None,
    then: Callable[[Aside], object] | None = None,
) -> Iterator[Aside]:
    """Give a database aside, to be filled, and put it in the place of the user's when this is left without an error.

    A `half` goes with it: Convex's directory. The database is what `make` makes, or else a copy of the user's, which
    nobody may then enter until this is left, since what they write would be lost. `by` is the command, as it is typed;
    `room` the bytes that are needed at least; `then` is done before anything else happens to it.
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
            if make:
                make(place)
            else:
                spares.tell_sessions(cluster)
                queue.copy_and_take_away(place, second, by)
            cluster.allow(place.name, anybody=True, limit=FILLING)
            with beside(lambda done: _watch(place, second.connection.info.backend_pid, done)):
                yield place
            spares.refuse_prepared(cluster, place.name)
            spares.ask_what_goes(cluster, cluster.database, goes, keep=False, yes=yes)
            _exchange(place, second, by, taken_away=not make)
            if then:
                then(place)
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


def _exchange(place: Aside, second: Cluster, by: str, *, taken_away: bool) -> None:
    """Let the two databases exchange names, in one transaction."""
    import psycopg

    cluster, database, half = place.cluster, place.cluster.database, place.half
    ours = cluster.oid(place.name)
    cluster.end_sessions(ours)
    # Without the database `undo` still brings Convex back, for which another one stands.
    alone = half and (not place.kept if taken_away else drop.what_goes(cluster, database))
    stand_in = drop.make_stand_in(cluster, place.name, half.kept) if half and alone else ""
    along = half.along(cluster, place.name, None if taken_away else second) if half else nullcontext()
    try:
        if taken_away:
            with along:
                place.make_ready(second)
                _become(place, second, by, stand_in)
                place.look()
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
    if place.half:
        place.half.exchange_tables(second)
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
