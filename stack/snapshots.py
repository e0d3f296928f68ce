"""Save points inside the cluster, and the only code that drops databases.

A snapshot is a database that nobody may enter, under a name that nobody types; what its owner called it stands in its
comment. A spare is one more copy of it, made in the background, that `restore` puts in the database's place by renaming
both in one transaction: at every moment one whole database has the name.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stack import blocked, files, places
from stack.cluster import Cluster, log_in
from stack.engine import Engine
from stack.process import Refused, StackError, begin, printable
from stack.ready import LoginFailed
from stack.talk import ago, confirm, counted, human, live, say

if TYPE_CHECKING:
    from typing_extensions import LiteralString

SNAPSHOT, SPARE, MAKING, DOOMED, UNDO = (f"stack-{part}-" for part in ("snapshot", "spare", "making", "doomed", "undo"))
"""What our databases are called, before 32 hexadecimal digits; a spare has the digits of its snapshot."""
OURS = "^stack-(snapshot|spare|making|doomed|undo)-[0-9a-f]{32}$"
MARK = 0x57AC57AC
"""The connection limit of our databases: a name may be anybody's, and CREATE DATABASE sets this along with it.

The limit that the user's database has stands among the facts, and comes back with it."""
FILLING = 0
"""The connection limit of one that a file is loaded into: none but superusers may enter."""
HALF_DROPPED = -2
"""The connection limit by which PostgreSQL marks what a killed server was dropping. Our comment is still there then."""
COMMENT = '{"stack": '
"""How the comment on each of our databases begins."""
WORK, KEEPER, COPY = "stack-work", "stack-keeper", "stack-copy-"
"""What our sessions are called: a command's, the background's, and, before 32 digits, whose who copies a snapshot."""
LONGEST = 200
"""Characters in the name of a snapshot: more than a person reads in a table."""
RESERVE = 1_000_000_000
"""Bytes of the disk that a spare leaves free: it is a convenience, and a full disk stops the server."""
MARGIN = 100_000_000
"""Bytes of the disk that a snapshot leaves free, for the server to go on writing its log."""
_MAKER = 0x57AC
"""The advisory lock of whoever makes or drops our databases."""
_AT_WORK: LiteralString = """
    FROM pg_stat_activity AS a JOIN pg_stat_activity AS me ON me.pid = pg_backend_pid()
    WHERE a.pid <> me.pid AND a.datid = me.datid AND a.usesysid = me.usesysid
      AND a.application_name ~ '^stack-(work|keeper|copy-[0-9a-f]{32})$'
      AND EXISTS (SELECT FROM pg_locks AS l WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.database = me.datid
                  AND l.classid = 0 AND l.objid = 22444 AND l.objsubid = 1)"""
"""Our other sessions at work. A name may be anybody's: they also are where we are, and hold the lock or wait for it."""


@dataclass(frozen=True)
class Snapshot:
    """A save point. The first three fields are the server's, the others stand in the comment on its database."""

    id: str
    """The digits in its name."""
    size: int
    """In bytes."""
    spare: str
    """ready, being prepared, or none."""
    name: str
    database: str = ""
    taken: float = 0
    """Seconds since 1970."""
    used: float = 0
    """The same, of when it was last taken or restored."""
    server_version: str = ""
    message: str = ""
    comment: str | None = None
    """The user's own comment on the database."""
    limit: int = -1
    """Its connection limit."""
    template: bool = False
    """Whether it is marked as a template."""
    turn: int = 0
    """The number of the transaction that took it, which orders snapshots: clocks may be set back. 0: before there was
    one, so the clock must do."""
    used_turn: int = 0
    """The same, of the one that took or restored it last."""

    @property
    def stored(self) -> str:
        """The database that holds it."""
        return SNAPSHOT + self.id

    def facts(self) -> str:
        """Return what is to stand in the comment on its database."""
        facts = {name: value for name, value in asdict(self).items() if name not in ("id", "size", "spare")}
        return json.dumps({"stack": 2, **facts})

    @property
    def order(self) -> tuple[int, float]:
        """What sorts snapshots from the first taken to the last."""
        return self.turn, self.taken

    @property
    def last_used(self) -> tuple[int, float, int, float]:
        """The same by when they were last taken or restored."""
        return self.used_turn, self.used, *self.order

    @property
    def moment(self) -> str:
        """When it was taken, by the clock of then."""
        if not self.taken:
            return "nobody knows when"
        return f"{datetime.fromtimestamp(self.taken):%Y-%m-%d %H:%M:%S}"

    @property
    def age(self) -> str:
        """How long ago that was by the clock of now."""
        seconds = time.time() - self.taken
        return "unknown" if not self.taken else ago(seconds) if seconds > -2 else "ahead of the clock"


class Stored(NamedTuple):
    """A database with a name like ours."""

    name: str
    size: int
    limit: int
    enterable: bool
    in_use: bool
    """Whether there is a prepared transaction in it, so that it can be neither renamed nor dropped."""
    comment: str | None

    @property
    def half_dropped(self) -> bool:
        """Whether a killed server was dropping it."""
        return self.limit == HALF_DROPPED

    @property
    def ours(self) -> bool:
        """Whether it is ours, by more than the name. Before there was a mark, snapshots told all facts."""
        if self.half_dropped:
            return (self.comment or "").startswith(COMMENT)
        if self.name.startswith(MAKING) and (self.limit == FILLING or (self.comment or "").startswith(COMMENT)):
            return True  # the file that fills it may change one of the two
        return self.limit == MARK or (self.name.startswith(SNAPSHOT) and _facts(self.comment).keys() >= _BEFORE)

    @property
    def is_snapshot(self) -> bool:
        """Whether it holds a snapshot."""
        return self.ours and self.name.startswith(SNAPSHOT) and not self.half_dropped

    @property
    def is_kept(self) -> bool:
        """Whether it is what `undo` brings back."""
        return self.ours and self.name.startswith(UNDO) and not self.half_dropped

    @property
    def reason(self) -> str:
        """Why it could not be dropped, at the last try; empty when it was not tried."""
        told = _json(self.comment).get("reason") if self.ours else ""
        return told if isinstance(told, str) else ""


# -- the commands ---------------------------------------------------------------------------------------------


def take(engine: Engine, name: str = "", *, message: str = "", overwrite: bool = False) -> None:
    """Copy the database into a snapshot; without a name the clock gives one.

    Ends the sessions on the database; new ones wait until the copy is made. Raises Refused when the name is taken
    (unless `overwrite`) or cannot be one, StackError when there is no room or the copy fails.
    """
    name = _checked(name) if name else ""
    if not message.isprintable():
        raise Refused("A message is one line of printable characters. Nothing was done.")
    with log_in(engine, WORK) as cluster:
        there = _of_database(cluster)
        name = name or _from_the_clock(there)
        old = [each for each in there if each.name == name]
        if old and not overwrite:
            raise Refused(
                f"There is a snapshot {name!r} already, so nothing was done. Choose another name, or add --replace."
            )
        if cluster.oid(cluster.database) is None:
            raise StackError(f"There is no database {cluster.database!r} to take a snapshot of. Type `invoke doctor`.")
        for database in (cluster.database, *(each.stored for each in old)):
            _refuse_prepared(cluster, database)
        _take_over(cluster)
        size = cluster.size(cluster.database)
        _tell(cluster)
        made = _copy(engine, cluster, cluster.database, cluster.database, size)
        comment, limit, template = cluster.marks(cluster.database)
        now = time.time()
        for each in old:
            _clear_out(cluster, each)
        with cluster.transaction():
            turn = cluster.transaction_id()
            new = Snapshot(
                uuid.uuid4().hex, size, "none", name, cluster.database, now, now, cluster.version, message, comment,
                limit, template, turn, turn,
            )  # fmt: skip
            for each in old:
                _doom(cluster, each)
            cluster.rename(made, new.stored)
            cluster.set_comment(new.stored, new.facts())
        _remember(engine, cluster)
    _go_on_in_background(engine)
    say(f"Took the snapshot {name} of {new.database} ({human(size)}). `invoke restore {_typed(name)}` brings it back.")


def restore(engine: Engine, name: str = "", *, keep: bool = False, yes: bool = False) -> None:
    """Put a snapshot, the newest when there is no name, in the place of the database.

    With a spare that is two renames; without, a copy is made first. The replaced database is what `undo` brings back,
    or becomes a snapshot with `keep`. Replication slots and subscriptions do not come along: they are
    named, and when one is in use, that is asked about unless `yes`. Raises StackError; the database is then as it was.
    """
    with log_in(engine, WORK) as cluster:
        snapshot = _find(cluster, name)
        _refuse_prepared(cluster, cluster.database)
        told = _ask_what_goes(cluster, cluster.database, set(), keep=keep, yes=yes)
        new = _spare(engine, cluster, snapshot)
        there = cluster.oid(cluster.database) is not None
        _ask_what_goes(cluster, cluster.database, told, keep=keep, yes=yes)  # making a copy may have taken a while
        _tell(cluster)
        with cluster.alone(cluster.database), cluster.transaction():
            turn, kept = cluster.transaction_id(), False
            used = replace(snapshot, used=time.time(), used_turn=turn)
            cluster.set_comment(snapshot.stored, used.facts())
            cluster.allow(new, anybody=True, limit=snapshot.limit, template=snapshot.template)
            cluster.set_comment(new, snapshot.comment)
            if there and keep:
                _keep(cluster, snapshot, turn)
            elif there:
                kept = keep_back(cluster, f"restore {_typed(snapshot.name)}")
            cluster.rename(new, cluster.database)
        _remember(engine, cluster)
    _go_on_in_background(engine)
    back = f" {BACK}" if kept else ""
    say(f"{cluster.database} is as it was when the snapshot {snapshot.name} was taken, {snapshot.moment}.{back}")


def drop(engine: Engine, name: str, *, yes: bool) -> None:
    """Delete a snapshot, after asking; `undo` brings it back.

    Raises Refused when there is none of that name, or the user says no.
    """
    if not name:
        raise Refused("Which snapshot? Type `invoke drop-snapshot NAME`; `invoke snapshots` lists them.")
    with log_in(engine, WORK) as cluster:
        snapshot = _find(cluster, name)
        what = f"{snapshot.name} ({human(snapshot.size)}, taken {snapshot.moment})"
        _refuse_prepared(cluster, snapshot.stored)
        for line, _ in _what_goes(cluster, snapshot.stored):
            say(f"With it goes {line}.")
        confirm(f"Delete the snapshot {what}?", yes=yes)
        _take_over(cluster)
        _clear_out(cluster, snapshot)
        with cluster.transaction():
            kept = keep_snapshot_back(cluster, snapshot)
        _remember(engine, cluster)
    _go_on_in_background(engine)
    say(f"Deleted the snapshot {snapshot.name}.{f' {BACK}' * kept}")


def listed(engine: Engine) -> list[Snapshot]:
    """Return every snapshot of the cluster, the newest first; what a crash has left is cleared away meanwhile."""
    with log_in(engine, "invoke") as cluster:
        _remember(engine, cluster)
        unwanted = _unwanted(cluster)
        if kept := kept_back(cluster):
            say(f"`invoke undo` brings back {kept}.")
        for each in unwanted:
            if each.reason:
                what = f"{each.name} ({human(each.size)})"
                say(f"The copy {what} could not be dropped: {each.reason} Type `invoke doctor`.")
        if unwanted:
            _go_on_in_background(engine)
        return _every(cluster)


def keep_ready(engine: Engine) -> None:
    """Make the spare that the next `restore` will want, and drop what is no longer wanted.

    This is what runs in the background: it gives way to whatever happens to the server.
    """
    with suppress(StackError), log_in(engine, KEEPER) as cluster:
        cluster.rows("SELECT pg_advisory_lock(%s)", _MAKER)
        cluster.rows("SELECT set_config('lock_timeout', '10s', false)")  # nobody sees what it waits for
        for _ in range(2):  # the second time there may be the room that the first has made
            wanted = _wanted(engine, cluster)
            if wanted and wanted.spare != "ready" and _free(engine, cluster) > wanted.size + RESERVE:
                _make_spare(cluster, wanted)
            if _free(engine, cluster) < MARGIN:
                give_way(cluster)
            _clear(cluster, SPARE + wanted.id if wanted else "")
            wanted = _wanted(engine, cluster)
            if not wanted or wanted.spare == "ready":
                return


def clear(engine: Engine) -> None:
    """Drop what is no longer wanted, in front of the user. Raises StackError naming what cannot be, and why."""
    keep_ready(engine)
    with log_in(engine, "invoke") as cluster:
        stuck = [f"{each.name} ({human(each.size)}): {each.reason}" for each in _unwanted(cluster)]
    if stuck:
        raise StackError(f"These copies could not be dropped. {' '.join(stuck)} Type `invoke doctor`.")


def _wanted(engine: Engine, cluster: Cluster) -> Snapshot | None:
    """Return the snapshot that is to have a spare."""
    there = _of_database(cluster) if engine.settings.spare else []
    return max(there, key=lambda each: each.last_used, default=None)


def _make_spare(cluster: Cluster, wanted: Snapshot) -> None:
    import psycopg

    spare, made = SPARE + wanted.id, MAKING + uuid.uuid4().hex
    for each in _stored(cluster):
        if each.name == spare and (not each.ours or _drop(cluster, each)):
            return  # the name is taken: `restore` makes a copy
    try:
        cluster.rows("SELECT set_config('application_name', %s, false)", COPY + wanted.id)  # tells `restore`
        cluster.copy(wanted.stored, made, limit=MARK, comment=_comment())
        cluster.rename(made, spare)
    except (psycopg.Error, StackError):
        if cluster.connection.closed:
            raise
    finally:
        with suppress(psycopg.Error):
            cluster.rows("SELECT set_config('application_name', %s, false)", KEEPER)


@dataclass(frozen=True)
class Left:
    """A copy that is in the way, with what is known of it."""

    what: str
    cure: str
    ours: bool


def left(engine: Engine) -> list[Left]:
    """Return the copies that nobody wants and those that only look like ours; none while a command is at work."""
    with log_in(engine, "invoke") as cluster:
        if cluster.rows(f"SELECT {_AT_WORK}"):
            return []
        found = [_left(cluster, each) for each in _unwanted(cluster)]
        for each in _stored(cluster):
            if not each.ours:
                found.append(_not_ours(each))
        return found


def _left(cluster: Cluster, copy: Stored) -> Left:
    oid = cluster.oid(copy.name)
    cures = [each.end for each in blocked.sessions_in(cluster.connection, oid)]
    if prepared := blocked.prepared_in(cluster.connection, oid):
        cures.append(f"""`invoke psql -c 'ALTER DATABASE "{copy.name}" ALLOW_CONNECTIONS true'`""")
        cures += [f"`printf '%s\\n' '\\c {copy.name}' {shlex.quote(each.rollback)} | invoke psql`" for each in prepared]
    why = f": {copy.reason}" if copy.reason else ""
    cures.append("`invoke doctor --fix`")
    return Left(f"{copy.name} ({human(copy.size)}){why}", f"Type {', then '.join(cures)}.", ours=True)


def _not_ours(database: Stored) -> Left:
    quoted = f'"{database.name}"'
    what = (
        f"The database {database.name} ({human(database.size)}) is called as our copies are and is not marked as one:"
        " it is yours, or an earlier version of the stack left it. Nothing here touches it."
    )
    renamed = f"`invoke psql -c 'ALTER DATABASE {quoted} RENAME TO another_name'`"
    return Left(what, f"To keep it and have it out of the way, type {renamed}.", ours=False)


# -- what is there --------------------------------------------------------------------------------------------


def _stored(cluster: Cluster) -> list[Stored]:
    """Return the databases with names like ours."""
    rows = cluster.rows(
        """
        SELECT datname, coalesce(pg_database_size(oid), 0), datconnlimit, datallowconn,
               EXISTS (SELECT FROM pg_prepared_xacts WHERE database = datname), shobj_description(oid, 'pg_database')
        FROM pg_database WHERE datname ~ %s ORDER BY datname
        """,
        OURS,
    )
    return [Stored(*row) for row in rows]


def _every(cluster: Cluster) -> list[Snapshot]:
    stored = _stored(cluster)
    ready = {each.name for each in stored if each.ours and not (each.half_dropped or each.enterable or each.in_use)}
    prepared = {name for (name,) in cluster.rows(f"SELECT a.application_name {_AT_WORK}")}
    found = []
    for each in filter(lambda each: each.is_snapshot, stored):
        digits = each.name[len(SNAPSHOT) :]
        spare = "ready" if SPARE + digits in ready else "being prepared" if COPY + digits in prepared else "none"
        limit = -1 if each.limit == MARK else each.limit
        facts = {"name": each.name, "limit": limit, **_facts(each.comment)}
        found.append(Snapshot(digits, each.size, spare, **facts))
    return sorted(found, key=lambda each: each.order, reverse=True)


_BEFORE = {"name", "database", "taken", "used", "server_version", "message", "comment"}
"""The facts that a snapshot told before ours had a mark."""
_LATEST = 250_000_000_000
"""Seconds since 1970: no clock that is shown is beyond the year 9892."""


def _facts(comment: str | None) -> dict[str, Any]:
    """Return what a comment tells, as far as it can be used: somebody may have changed it."""

    def words(value: object) -> bool:
        return isinstance(value, str) and value.isprintable()

    def clock(value: object) -> bool:
        return isinstance(value, (int, float)) and 0 <= value < _LATEST

    def whole(low: int, high: int) -> Callable[[object], bool]:
        return lambda value: type(value) is int and low <= value < high

    judges: dict[str, Callable[[object], bool]] = {
        "name": lambda value: words(value) and bool(value),
        "database": lambda value: isinstance(value, str),
        "taken": clock,
        "used": clock,
        "server_version": words,
        "message": words,
        "comment": lambda value: value is None or isinstance(value, str),
        "limit": whole(-1, MARK),
        "template": lambda value: isinstance(value, bool),
        "turn": whole(0, 1 << 64),
        "used_turn": whole(0, 1 << 64),
    }
    told = _json(comment)
    return {name: told[name] for name, can_be in judges.items() if name in told and can_be(told[name])}


def _json(comment: str | None) -> dict[str, Any]:
    try:
        told = json.loads(comment or "")
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _comment(reason: str = "") -> str:
    """Return the comment on a copy that is no snapshot."""
    return json.dumps({"stack": 2, "reason": reason} if reason else {"stack": 2})


def _of_database(cluster: Cluster) -> list[Snapshot]:
    return [each for each in _every(cluster) if each.database == cluster.database]


def _find(cluster: Cluster, name: str) -> Snapshot:
    every, name = _every(cluster), unicodedata.normalize("NFC", name)
    there = [each for each in every if each.database == cluster.database]
    # One whose comment was changed belongs to no database; it is found by the name that `snapshots` shows.
    for each in [*there, *(each for each in every if not each.database)]:
        if each.name == name:
            return each
    if not there:
        raise Refused(f"There is no snapshot of {cluster.database}. `invoke snapshot` takes one.")
    if not name:
        return there[0]
    names = ", ".join(each.name for each in there)
    raise Refused(f"There is no snapshot {name!r} of {cluster.database}, so nothing was done. There are: {names}.")


def _unwanted(cluster: Cluster, spare: str = SPARE) -> list[Stored]:
    """Return our databases that are no longer wanted: all but the snapshots, and those whose name begins as `spare`."""
    found = [each for each in _stored(cluster) if each.ours and not (each.is_snapshot or each.is_kept)]
    return [each for each in found if each.half_dropped or not (spare and each.name.startswith(spare))]


def _free(engine: Engine, cluster: Cluster) -> int:
    """Return the bytes that are free on the disk that holds the cluster."""
    # With Docker in a virtual machine the directory has another path there.
    return places.free(cluster.directory if cluster.directory.exists() else engine.root / "data")


# -- what does not come along ---------------------------------------------------------------------------------


def _refuse_prepared(cluster: Cluster, database: str) -> None:
    """Raise Refused when a prepared transaction is in a database: it can be neither copied nor renamed then."""
    if found := blocked.prepared_in(cluster.connection, cluster.oid(database)):
        raise Refused(
            f"PostgreSQL neither copies nor renames a database with prepared transactions, and there is"
            f" {'; '.join(map(str, found))}. Nothing was done. Type {', '.join(each.end for each in found)}, then the"
            " command again."
        )


def _what_goes(cluster: Cluster, database: str) -> list[tuple[str, bool]]:
    """Return what belongs to a database and is no part of a copy of it, in words, and whether it is in use."""
    slots = cluster.rows(
        """
        SELECT 'the replication slot ' || slot_name
                   || CASE WHEN a.pid IS NULL THEN ', which nobody reads now'
                   ELSE format(', which pid %%s (%%s) reads', a.pid, coalesce(nullif(application_name, ''), usename))
                   END,
               active
        FROM pg_replication_slots LEFT JOIN pg_stat_activity AS a ON a.pid = active_pid
        WHERE datoid = %s::oid ORDER BY slot_name
        """,
        cluster.oid(database),
    )
    subscriptions = cluster.rows(
        """
        SELECT format('the subscription %%I%%s', subname, CASE WHEN subenabled THEN ', which is enabled' END
                      || '; its slot ' || subslotname || ' stays at the publisher'), subenabled
        FROM pg_subscription WHERE subdbid = %s::oid ORDER BY subname
        """,
        cluster.oid(database),
    )
    return [(words, used) for words, used in [*slots, *subscriptions]]


def _ask_what_goes(
    cluster: Cluster, database: str, told: set[tuple[str, bool]], *, keep: bool, yes: bool
) -> set[tuple[str, bool]]:
    """Name what does not come along, ask when something is in use, and return what was named."""
    goes = set(_what_goes(cluster, database)) - told
    for words, _ in sorted(goes):
        stays = "Stays with the kept snapshot, where nobody can use it and no restore brings it back"
        say(f"{stays if keep else 'Is lost with the replaced database'}: {words}.")
    if any(used for _, used in goes):
        confirm(f"Something uses it. Restore {database} all the same?", yes=yes)
    return told | goes


# -- making and dropping --------------------------------------------------------------------------------------


def _take_over(cluster: Cluster) -> None:
    """Become the one who makes and drops our databases, for as long as this session lasts.

    Ends the background's work, and what a command that was killed has left at work in the server.
    """
    deadline, teller = time.monotonic() + 30, blocked.Teller()
    while ended := cluster.rows(f"SELECT a.pid, a.application_name, pg_terminate_backend(a.pid) {_AT_WORK}"):
        teller.tell(
            [f"pid {pid} ({name}), an earlier snapshot or restore, to end." for pid, name, _ in ended], patience=2
        )
        if time.monotonic() > deadline:
            raise StackError("An earlier snapshot or restore is still at work in the server. Wait, then try again.")
        time.sleep(0.01)
    cluster.rows("SELECT pg_advisory_lock(%s)", _MAKER)


def _spare(engine: Engine, cluster: Cluster, snapshot: Snapshot) -> str:
    """Return the name of a copy of a snapshot that may be given away, waiting for it or making it."""
    if snapshot.spare == "being prepared":
        with _waiting(f"the spare copy of {snapshot.name}, which is being prepared"):
            teller = blocked.Teller()
            while snapshot.spare == "being prepared":
                time.sleep(0.02)
                teller.tell(blocked.blockers(cluster.connection, program=COPY + snapshot.id))
                snapshot = _find(cluster, snapshot.name)
    _take_over(cluster)
    if _find(cluster, snapshot.name).spare == "ready":
        return SPARE + snapshot.id
    say(f"There is no spare copy of {snapshot.name} yet, so one is made first.")
    return _copy(engine, cluster, snapshot.stored, snapshot.name, snapshot.size)


def _copy(engine: Engine, cluster: Cluster, source: str, title: str, size: int) -> str:
    """Copy a database in front of the user, and return the name of the copy. Raises StackError without the room."""
    make_room(engine, cluster, size)
    if _free(engine, cluster) < size + MARGIN:
        raise StackError(
            f"There is no room for a copy of the database: it takes {human(size)}, and {human(_free(engine, cluster))}"
            " of the disk are free. Nothing was done. Delete a snapshot with `invoke drop-snapshot NAME`, or make room."
        )
    made = MAKING + uuid.uuid4().hex
    with _waiting(f"a copy of {title} ({human(size)})"):
        cluster.copy(source, made, limit=MARK, comment=_comment())
    return made


def make_room(engine: Engine, cluster: Cluster, size: int) -> None:
    """Give up what is kept for convenience, as far as so many bytes need it: first what `undo` would bring back."""
    if _free(engine, cluster) < size + MARGIN and give_way(cluster):
        _clear(cluster, SPARE)
        _remember(engine, cluster)
    if _free(engine, cluster) < size + MARGIN:
        _clear(cluster)


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    with live() as show:
        show(what)
        yield


def _tell(cluster: Cluster) -> None:
    """Say whose sessions are about to end."""
    if sessions := cluster.sessions(cluster.database):
        number = counted(len(sessions), "session")
        say(f"Ending {number} on {cluster.database}: {', '.join(sorted(set(sessions)))}.")


def _keep(cluster: Cluster, restored: Snapshot, turn: int) -> None:
    """Make a snapshot of the database by giving it another name, within a transaction."""
    kept = Snapshot(
        uuid.uuid4().hex, 0, "none", _from_the_clock(_of_database(cluster)), cluster.database, time.time(), 0,
        cluster.version, f"replaced by {restored.name}", *cluster.marks(cluster.database), turn,
    )  # fmt: skip
    cluster.allow(cluster.database, anybody=False, limit=MARK)
    cluster.set_comment(cluster.database, kept.facts())
    cluster.shut(cluster.database)
    cluster.rename(cluster.database, kept.stored)
    say(f"What is replaced stays as the snapshot {kept.name}.")


# -- one step back --------------------------------------------------------------------------------------------


BACK = "`invoke undo` takes that back."
"""The last sentence of whatever can be undone."""


class Kept(NamedTuple):
    """What was replaced or dropped last."""

    stored: str
    """The database that holds it."""
    size: int
    by: str
    """The command that did it, as it is typed."""
    at: float
    """Seconds since 1970."""
    was: Snapshot
    """Its facts; those of the user's database have no name."""

    @property
    def is_snapshot(self) -> bool:
        """Whether it is a snapshot, and not a database of the user's."""
        return bool(self.was.name)

    @property
    def moment(self) -> str:
        """When it was replaced or dropped, by the clock of then."""
        return f"{datetime.fromtimestamp(self.at):%Y-%m-%d %H:%M:%S}"

    def __str__(self) -> str:
        what = f"the snapshot {self.was.name}" if self.is_snapshot else f"{self.was.database} as it was"
        return f"{what} before `invoke {self.by}`, {self.moment} ({human(self.size)})"


def kept_back(cluster: Cluster) -> Kept | None:
    """Return what `undo` would bring back; None when there is nothing."""
    for each in _stored(cluster):
        told = _json(each.comment)
        by, at, digits = told.get("undo"), told.get("at"), told.get("id")
        if each.is_kept and isinstance(by, str) and isinstance(at, (int, float)) and 0 <= at < _LATEST:
            facts = {"name": "", **_facts(each.comment)}
            return Kept(each.name, each.size, by, at, Snapshot(str(digits), each.size, "none", **facts))
    return None


def keep_back(cluster: Cluster, by: str, *, whatever: bool = False, shut: bool = True) -> bool:
    """Take the user's database out of its place, within a transaction, for `undo` to bring it back.

    One with a replication slot or a subscription is given up instead, unless `whatever`: nobody would use the slot, and
    the server keeps its log for it. With `shut`, which is for a transaction that ends at once, logins wait before they
    read the name. Return whether it was kept.
    """
    if not whatever and _what_goes(cluster, cluster.database):
        give_way(cluster)
        _give_up(cluster, cluster.database, shut=shut)
        return False
    comment, limit, template = cluster.marks(cluster.database)
    was = Snapshot("", 0, "none", "", cluster.database, time.time(), 0, cluster.version, "", comment, limit, template)
    _keep_as_step(cluster, cluster.database, was, by, shut=shut)
    return True


def keep_snapshot_back(cluster: Cluster, snapshot: Snapshot) -> bool:
    """Delete a snapshot, within a transaction, so that `undo` brings it back; return whether that can be."""
    kept = not _what_goes(cluster, snapshot.stored)
    if kept:
        _keep_as_step(cluster, snapshot.stored, snapshot, f"drop-snapshot {_typed(snapshot.name)}", shut=False)
    _doom(cluster, snapshot)
    return kept


def _keep_as_step(cluster: Cluster, database: str, was: Snapshot, by: str, *, shut: bool) -> None:
    give_way(cluster)
    name = UNDO + uuid.uuid4().hex
    if shut:
        cluster.shut(database)
    cluster.rename(database, name)
    cluster.allow(name, anybody=False, limit=MARK)
    cluster.set_comment(name, json.dumps({**json.loads(was.facts()), "id": was.id, "undo": by, "at": time.time()}))


def give_way(cluster: Cluster) -> bool:
    """Give up what `undo` would bring back, within a transaction or without; return whether there was something."""
    there = [each.name for each in _stored(cluster) if each.is_kept]
    for each in there:
        _give_up(cluster, each)
    return bool(there)


def _clear_out(cluster: Cluster, snapshot: Snapshot) -> None:
    """End the sessions of whoever has opened a snapshot or its spare by hand."""
    for name in (snapshot.stored, SPARE + snapshot.id):
        cluster.end_sessions(cluster.oid(name))


def _doom(cluster: Cluster, snapshot: Snapshot) -> None:
    """Give a snapshot and its spare up, within a transaction; they are dropped in the background."""
    for each in _stored(cluster):
        if each.ours and each.name in (snapshot.stored, SPARE + snapshot.id) and not each.half_dropped:
            _give_up(cluster, each.name)


def _give_up(cluster: Cluster, database: str, *, shut: bool = True) -> str:
    """Make a database one that is to be dropped, within a transaction, and return its new name."""
    name = DOOMED + uuid.uuid4().hex
    cluster.allow(database, anybody=False, limit=MARK)  # and a template cannot be dropped
    cluster.set_comment(database, _comment())
    if shut and database == cluster.database:
        cluster.shut(database)
    cluster.rename(database, name)
    return name


def _clear(cluster: Cluster, spare: str = "") -> None:
    """Drop what is no longer wanted. One that cannot be dropped does not stop the others."""
    for each in _unwanted(cluster, spare):
        _drop(cluster, each)
    drop_roles(cluster)


def _drop(cluster: Cluster, copy: Stored) -> str:
    """Drop a database of ours; return why it cannot be, and write it down for whoever asks. Empty: it is gone."""
    import psycopg

    name = copy.name
    try:
        if not copy.half_dropped:
            cluster.end_sessions(cluster.oid(name))
            with cluster.transaction():  # from here on it is known for ours, dropped by half too
                name = _give_up(cluster, name)
            _end_subscriptions(cluster, name)
        cluster.run("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)
    except (psycopg.Error, LoginFailed) as error:
        if cluster.connection.closed:
            raise
        reason = _reason(error)
        with suppress(psycopg.Error):
            cluster.set_comment(name if cluster.oid(name) else copy.name, _comment(reason))
        return reason
    return ""


ROLE = '{"stack": 2, "made for": "'
"""How the comment begins on a role that was made for a database that is being filled; its name follows."""


def drop_roles(cluster: Cluster) -> None:
    """Drop the roles that were made for databases that are no more. One that is in use by now stays."""
    import psycopg

    made = cluster.rows(
        "SELECT rolname FROM pg_roles AS r WHERE starts_with(shobj_description(oid, 'pg_authid'), %s) AND NOT EXISTS"
        " (SELECT FROM pg_database WHERE shobj_description(r.oid, 'pg_authid') = %s::text || datname || '\"}')",
        ROLE, ROLE,
    )  # fmt: skip
    for (name,) in made:
        with suppress(psycopg.errors.DependentObjectsStillExist, psycopg.errors.UndefinedObject):
            cluster.run("DROP ROLE {}", name)


def _reason(error: Exception) -> str:
    """Return PostgreSQL's own words on one line."""
    words = printable(" ".join(str(error).split()), one_line=True)
    return words if words.endswith(".") else f"{words}."


def _end_subscriptions(cluster: Cluster, name: str) -> None:
    """Drop the subscriptions of a database that is to be dropped, which PostgreSQL does not do by itself.

    Their slots stay at the publisher, which may be out of reach: whoever gave the database up was told.
    """
    found = [
        row[0] for row in cluster.rows("SELECT subname FROM pg_subscription WHERE subdbid = %s::oid", cluster.oid(name))
    ]
    if not found:
        return
    from psycopg import sql

    cluster.allow(name, anybody=True, limit=MARK)
    try:
        with cluster.within(name) as session:
            for each in found:
                for statement in ("ALTER SUBSCRIPTION {} DISABLE", "ALTER SUBSCRIPTION {} SET (slot_name = NONE)",
                                  "DROP SUBSCRIPTION {}"):  # fmt: skip
                    session.execute(sql.SQL(statement).format(sql.Identifier(each)))
    finally:
        cluster.allow(name, anybody=False, limit=MARK)


def _go_on_in_background(engine: Engine) -> None:
    in_background(engine)


def in_background(engine: Engine) -> None:
    """Let `keep_ready` run in a process that outlives this one and its terminal."""
    program = "from stack import engine, snapshots; snapshots.keep_ready(engine.choose())"
    child = subprocess.Popen(
        [sys.executable, "-c", program], cwd=engine.root, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    begin(child.wait)


# -- names ----------------------------------------------------------------------------------------------------


STEP = "\tundo: "
"""How the line begins that tells what `undo` would bring back; no snapshot is called so."""


def names_of(directory: Path) -> Path:
    """Return the file that names the snapshots in a data directory, for when the server is down."""
    return directory.with_name(f".{directory.name}-snapshots")


def _remember(engine: Engine, cluster: Cluster) -> None:
    names = "".join(f"{each.name}\n" for each in _every(cluster))
    if kept := kept_back(cluster):
        names += f"{STEP}{kept}\n"
    file = names_of(engine.root / "data" / cluster.directory.name)
    with suppress(OSError):  # another user's file; what it repeats is in the cluster
        if not file.exists() or file.read_text(encoding="utf-8", errors="replace") != names:
            files.write_text(file, names, mode=0o644)


def _checked(name: str) -> str:
    name = unicodedata.normalize("NFC", name)
    if not name.isprintable() or name != name.strip() or len(name) > LONGEST:
        raise Refused(
            f"A snapshot cannot have that name: at most {LONGEST} printable characters on one line, without white space"
            " at either end. Nothing was done."
        )
    return name


def _from_the_clock(there: list[Snapshot]) -> str:
    name, taken = f"{datetime.now():%Y-%m-%d_%H%M%S}", {each.name for each in there}
    return next(free for free in (name, *(f"{name}-{n}" for n in range(2, len(taken) + 3))) if free not in taken)


def _typed(name: str) -> str:
    return f"--name={shlex.quote(name)}" if name.startswith("-") else shlex.quote(name)
