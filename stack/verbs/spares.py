"""Copies of the database: made in front of the user, kept ready in the background, and cleared away."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread

from stack.engines.base import Engine, need
from stack.ground import disk
from stack.ground.errors import Refused, StackError
from stack.ground.run import start
from stack.ground.talk import confirm, counted, human, live, say
from stack.ground.threads import begin
from stack.ground.trash import KEPT
from stack.server import waits
from stack.server.admin import Cluster
from stack.server.session import LoginFailed
from stack.verbs import halves, leases, made_roles
from stack.verbs.drop import clear_all_but, doom, drop_one, give_way, what_goes
from stack.verbs.facts import MARK, made_comment
from stack.verbs.forks import end_forks
from stack.verbs.login import administrator
from stack.verbs.names import remember
from stack.verbs.store import (
    AT_WORK,
    COPY,
    KEEPER,
    MAKER,
    MAKING,
    SPARE,
    Snapshot,
    all_stored,
    convex_of,
    every_one,
    find_one,
    unwanted_copies,
)

RESERVE = 1_000_000_000
"""Bytes of the disk that a spare leaves free: it is a convenience, and a full disk stops the server."""
MARGIN = 100_000_000
"""Bytes of the disk that a snapshot leaves free, for the server to go on writing its log."""


def keep_ready(engine: Engine) -> bool:
    """Make the spare that the next `restore` will want, drop what is no longer wanted; return whether a pool is there.

    This is what runs in the background: it gives way to whatever happens to the server.
    """
    pool = False
    with suppress(StackError), administrator(engine, KEEPER) as cluster:
        cluster.rows("SELECT pg_advisory_lock(%s)", MAKER)
        cluster.rows("SELECT set_config('lock_timeout', '10s', false)")  # nobody sees what it waits for
        pool = leases.in_use(cluster)
        end_forks(cluster)
        for _ in range(2):  # the second time there may be the room that the first has made
            wanted = wanted_snapshot(engine, cluster)
            if wanted and wanted.convex:
                _make_spare_half(engine, cluster, wanted)
            if wanted and wanted.spare != "ready" and room_left(engine, cluster) > wanted.size + RESERVE:
                _make_spare(cluster, wanted)
            if wanted and wanted.convex_in and room_left(engine, cluster) > wanted.convex_size + RESERVE:
                _make_spare(cluster, wanted, convex_of)
            if room_left(engine, cluster) < MARGIN:
                give_way(cluster)
            clear_all_but(cluster, SPARE + wanted.id if wanted else "")
            wanted = wanted_snapshot(engine, cluster)
            if not wanted or wanted.spare == "ready":
                break
    return pool


def clear(engine: Engine) -> None:
    """Drop what is no longer wanted, in front of the user. Raises StackError naming what cannot be, and why."""
    keep_ready(engine)
    with administrator(engine, "invoke") as cluster:
        stuck = [f"{each.name} ({human(each.size)}): {each.reason}" for each in unwanted_copies(cluster)]
    if stuck:
        raise StackError(f"These copies could not be dropped. {' '.join(stuck)} Type `invoke doctor`.")


def wanted_snapshot(engine: Engine, cluster: Cluster) -> Snapshot | None:
    """Return the snapshot that is to have a spare: one of the user's database, and of no fork."""
    there = every_one(cluster) if engine.settings.spare else []
    there = [each for each in there if each.database == cluster.configured and not each.part]
    return max(there, key=lambda each: each.last_used, default=None)


def _make_spare_half(engine: Engine, cluster: Cluster, wanted: Snapshot) -> None:
    """Copy the directory of Convex that the next `restore` will want."""
    there = halves.Halves(engine, cluster)
    source, spare = there.of(wanted.stored), there.of(SPARE + wanted.id)
    room = disk.free(there.data) > wanted.convex_size + RESERVE
    if engine.convex and room and source.exists() and not spare.exists():
        with suppress(StackError, OSError):
            halves.copy(engine.convex, there, source, spare)


def _make_spare(cluster: Cluster, wanted: Snapshot, called: Callable[[str], str] = str) -> None:
    """Copy a snapshot, or what goes with it and is `called` after it, to what its spare is called."""
    import psycopg

    source, spare, made = called(wanted.stored), called(SPARE + wanted.id), MAKING + uuid.uuid4().hex
    for each in all_stored(cluster):
        if each.name == spare and (each.is_ready or not each.ours or drop_one(cluster, each)):
            return  # it is there, or the name is taken: `restore` makes a copy
    try:
        cluster.rows("SELECT set_config('application_name', %s, false)", COPY + wanted.id)  # tells `restore`
        cluster.copy(source, made, limit=MARK, comment=made_comment())
        cluster.rename(made, spare)
    except (psycopg.Error, StackError):
        if cluster.connection.closed:
            raise
    finally:
        with suppress(psycopg.Error):
            cluster.rows("SELECT set_config('application_name', %s, false)", KEEPER)


def room_left(engine: Engine, cluster: Cluster) -> int:
    """Return the bytes that are free on the disk that holds the cluster."""
    left = need(engine.data, engine).room(cluster.directory)
    return disk.free(engine.root / "data") if left is None else left


def take_over(cluster: Cluster) -> None:
    """Become the one who makes and drops our databases, for as long as this session lasts.

    Ends the background's work, and what a command that was killed has left at work in the server.
    """
    deadline, teller = time.monotonic() + 30, waits.Teller()
    while ended := cluster.rows(f"SELECT a.pid, a.application_name, pg_terminate_backend(a.pid) {AT_WORK}"):
        teller.tell(
            [f"pid {pid} ({name}), an earlier snapshot or restore, to end." for pid, name, _ in ended], patience=2
        )
        if time.monotonic() > deadline:
            raise StackError("An earlier snapshot or restore is still at work in the server. Wait, then try again.")
        time.sleep(0.01)
    cluster.rows("SELECT pg_advisory_lock(%s)", MAKER)


def spare_of(engine: Engine, cluster: Cluster, snapshot: Snapshot) -> str:
    """Return the name of a copy of a snapshot that may be given away, waiting for it or making it."""
    if snapshot.spare == "being prepared":
        with waiting(f"the spare copy of {snapshot.name}, which is being prepared"):
            teller = waits.Teller()
            while snapshot.spare == "being prepared":
                time.sleep(0.02)
                teller.tell(waits.blockers(cluster.connection, program=COPY + snapshot.id))
                snapshot = find_one(cluster, snapshot.name)
    take_over(cluster)
    if find_one(cluster, snapshot.name).spare == "ready":
        return SPARE + snapshot.id
    say(f"There is no spare copy of {snapshot.name} yet, so one is made first.")
    return make_copy(engine, cluster, snapshot.stored, snapshot.name, snapshot.size)


def make_copy(engine: Engine, cluster: Cluster, source: str, title: str, size: int) -> str:
    """Copy a database in front of the user, and return the name of the copy. Raises StackError without the room."""
    make_room(engine, cluster, size, source)
    if room_left(engine, cluster) < size + MARGIN:
        raise StackError(
            f"There is no room for a copy of the database: it takes {human(size)}, and"
            f" {human(room_left(engine, cluster))} of the disk are free. Nothing was done. Delete a snapshot with"
            " `invoke drop-snapshot NAME`, or make room."
        )
    made = MAKING + uuid.uuid4().hex
    with waiting(f"a copy of {title} ({human(size)})"):
        cluster.copy(source, made, limit=MARK, comment=made_comment())
    return made


def copy_database(engine: Engine, cluster: Cluster) -> str:
    """Copy the user's database, whose sessions are told and ended, and return the name of the copy."""
    take_over(cluster)
    tell_sessions(cluster)
    return make_copy(engine, cluster, cluster.database, cluster.database, cluster.size(cluster.database))


def clear_making(cluster: Cluster, before: set[int] | None = None) -> None:
    """Drop what was made aside and did not take its place, and the roles that were made for it.

    With the roles that were there `before`, name those that are new and may be another's.
    """
    import psycopg

    with suppress(psycopg.Error, LoginFailed):
        for each in all_stored(cluster):
            if each.ours and each.name.startswith(MAKING):
                drop_one(cluster, each)
        made_roles.drop(cluster)
        if before is not None:
            made_roles.tell_left(cluster, before)


def make_room(engine: Engine, cluster: Cluster, size: int, source: str = "") -> None:
    """Give up what is kept for convenience, as far as so many bytes need it; not what is to be copied, the `source`.

    First that is what a reset has kept and what `fresh` would begin from, which can be made again, then what `undo`
    would bring back.
    """
    short = room_left(engine, cluster) < size + MARGIN and any((engine.root / "data").glob(f"{KEPT}-*"))
    if short and (giving_up := in_background(engine, "give_up_kept")):
        giving_up.join()
    if room_left(engine, cluster) < size + MARGIN:
        parts = [each for each in every_one(cluster) if each.part and each.stored != source]
        for each in parts:
            doom(cluster, each)
        clear_all_but(cluster, SPARE)
    if room_left(engine, cluster) < size + MARGIN and give_way(cluster):
        clear_all_but(cluster, SPARE)
        remember(engine, cluster)
    if room_left(engine, cluster) < size + MARGIN:
        clear_all_but(cluster)


def tell_and_tidy(engine: Engine, cluster: Cluster) -> None:
    """Write down what there is now, for when the server is down, and give up the directories that nobody wants."""
    remember(engine, cluster)
    if halves.all_of(engine.root):
        halves.Halves(engine, cluster).clear(wanted_snapshot(engine, cluster))


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show what is being waited for."""
    with live() as show:
        show(what)
        yield


def tell_sessions(cluster: Cluster) -> None:
    """Say whose sessions are about to end."""
    if sessions := cluster.sessions(cluster.database):
        number = counted(len(sessions), "session")
        say(f"Ending {number} on {cluster.database}: {', '.join(sorted(set(sessions)))}.")


def go_on_in_background(engine: Engine) -> None:
    """Let the background make the next spare, and drop what is no longer wanted."""
    in_background(engine)


def in_background(engine: Engine, work: str = "in_background") -> Thread | None:
    """Let what `keeper` does in the background run in a process that outlives this one and its terminal.

    Return the thread that waits for its end; None when it cannot be started.
    """
    program = f"from stack.engines import choose; from stack.verbs import keeper; keeper.{work}(choose.choose())"
    with suppress(StackError):  # what was asked for is done, and a spare is a convenience
        return begin(start([sys.executable, "-c", program], outlives=engine.root).wait)
    return None


def refuse_prepared(cluster: Cluster, database: str) -> None:
    """Raise Refused when a prepared transaction is in a database: it can be neither copied nor renamed then."""
    if found := waits.prepared_in(cluster.connection, cluster.oid(database)):
        raise Refused(
            f"PostgreSQL neither copies nor renames a database with prepared transactions, and there is"
            f" {'; '.join(map(str, found))}. Nothing was done. Type {', '.join(each.end for each in found)}, then the"
            " command again."
        )


def ask_what_goes(
    cluster: Cluster, database: str, told: set[tuple[str, bool]], *, keep: bool, yes: bool
) -> set[tuple[str, bool]]:
    """Name what does not come along, ask when something is in use, and return what was named."""
    goes = set(what_goes(cluster, database)) - told
    for words, _ in sorted(goes):
        stays = "Stays with the kept snapshot, where nobody can use it and no restore brings it back"
        say(f"{stays if keep else 'Is lost with the replaced database'}: {words}.")
    if any(used for _, used in goes):
        confirm(f"Something uses it. Restore {database} all the same?", yes=yes)
    return told | goes
