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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from stack import files, places
from stack.cluster import Cluster, log_in
from stack.engine import Engine
from stack.process import Refused, StackError
from stack.talk import confirm, human, live, say

SNAPSHOT, SPARE, MAKING, DOOMED = (f"stack-{part}-" for part in ("snapshot", "spare", "making", "doomed"))
"""What our databases are called, before 32 hexadecimal digits; a spare has the digits of its snapshot."""
OURS = "^stack-(snapshot|spare|making|doomed)-[0-9a-f]{32}$"
WORK, KEEPER, COPY = "stack-work", "stack-keeper", "stack-copy-"
"""What our sessions are called: a command's, the background's, and whose who copies a snapshot."""
AT_WORK = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND application_name ~ '^stack-(work|keeper|copy-)'"
"""Them, except the one that asks."""
LONGEST = 200
"""Characters in the name of a snapshot: more than a person reads in a table."""
RESERVE = 1_000_000_000
"""Bytes of the disk that a spare leaves free: it is a convenience, and a full disk stops the server."""
MARGIN = 100_000_000
"""Bytes of the disk that a snapshot leaves free, for the server to go on writing its log."""
_MAKER = 0x57AC
"""The advisory lock of whoever makes or drops our databases."""


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

    @property
    def stored(self) -> str:
        """The database that holds it."""
        return SNAPSHOT + self.id

    def facts(self) -> str:
        """Return what is to stand in the comment on its database."""
        return json.dumps({name: value for name, value in asdict(self).items() if name not in ("id", "size", "spare")})


# -- the commands ---------------------------------------------------------------------------------------------


def take(engine: Engine, name: str = "", *, message: str = "", overwrite: bool = False) -> None:
    """Copy the database into a snapshot; without a name the clock gives one.

    Ends the sessions on the database; new ones wait until the copy is made. Raises Refused when the name is taken
    (unless `overwrite`) or cannot be one, StackError when there is no room or the copy fails.
    """
    name = _checked(name) if name else ""
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
        _take_over(cluster)
        size = cluster.size(cluster.database)
        _tell(cluster)
        made = _copy(engine, cluster, cluster.database, cluster.database, size)
        now = time.time()
        comment = cluster.comment(cluster.database)
        new = Snapshot(
            uuid.uuid4().hex, size, "none", name, cluster.database, now, now, cluster.version, message, comment
        )
        with cluster.transaction():
            for each in old:
                _doom(cluster, each)
            cluster.rename(made, new.stored)
            cluster.set_comment(new.stored, new.facts())
        _remember(engine, cluster)
    _go_on_in_background(engine)
    say(f"Took the snapshot {name} of {new.database} ({human(size)}). `invoke restore {_typed(name)}` brings it back.")


def restore(engine: Engine, name: str = "", *, keep: bool = False) -> None:
    """Put a snapshot, the newest when there is no name, in the place of the database.

    With a spare that is two renames; without, a copy is made first. The replaced database is dropped in the
    background, or becomes a snapshot with `keep`. Raises StackError; the database is then as it was.
    """
    with log_in(engine, WORK) as cluster:
        snapshot = _find(cluster, name)
        new = _spare(engine, cluster, snapshot)
        there = cluster.oid(cluster.database) is not None
        _tell(cluster)
        with cluster.alone(cluster.database), cluster.transaction():
            if there and keep:
                _keep(cluster, snapshot)
            elif there:
                cluster.rename(cluster.database, DOOMED + uuid.uuid4().hex)
            cluster.rename(new, cluster.database)
            cluster.let_in(cluster.database, anybody=True)
            cluster.set_comment(cluster.database, snapshot.comment)
            cluster.set_comment(snapshot.stored, replace(snapshot, used=time.time()).facts())
        if keep:
            _remember(engine, cluster)
    _go_on_in_background(engine)
    say(f"{cluster.database} is as it was when the snapshot {snapshot.name} was taken, {_moment(snapshot)}.")


def drop(engine: Engine, name: str, *, yes: bool) -> None:
    """Delete a snapshot, after asking. Raises Refused when there is none of that name, or the user says no."""
    if not name:
        raise Refused("Which snapshot? Type `invoke drop-snapshot NAME`; `invoke snapshots` lists them.")
    with log_in(engine, WORK) as cluster:
        snapshot = _find(cluster, name)
        what = f"{snapshot.name} ({human(snapshot.size)}, taken {_moment(snapshot)})"
        confirm(f"Delete the snapshot {what} for ever?", yes=yes)
        _take_over(cluster)
        with cluster.transaction():
            _doom(cluster, snapshot)
        _remember(engine, cluster)
    _go_on_in_background(engine)
    say(f"Deleted the snapshot {snapshot.name}.")


def listed(engine: Engine) -> list[Snapshot]:
    """Return every snapshot of the cluster, the newest first; what a crash has left is cleared away meanwhile."""
    with log_in(engine, "invoke") as cluster:
        _remember(engine, cluster)
        if _unwanted(cluster, SPARE):
            _go_on_in_background(engine)
        return _every(cluster)


def keep_ready(engine: Engine) -> None:
    """Make the spare that the next `restore` will want, and drop what is no longer wanted.

    This is what runs in the background: it gives way to whatever happens to the server.
    """
    with suppress(StackError), log_in(engine, KEEPER) as cluster:
        cluster.rows("SELECT pg_advisory_lock(%s)", _MAKER)
        for _ in range(2):  # the second time there may be the room that the first has made
            latest = max(_of_database(cluster), key=lambda each: each.used, default=None)
            wanted = latest if engine.settings.spare else None
            if wanted and wanted.spare != "ready" and _free(engine, cluster) > wanted.size + RESERVE:
                made = MAKING + uuid.uuid4().hex
                cluster.rows("SELECT set_config('application_name', %s, false)", COPY + wanted.id)  # tells `restore`
                cluster.copy(wanted.stored, made)
                cluster.run("DROP DATABASE IF EXISTS {}", SPARE + wanted.id)  # one that was dropped by half
                cluster.rename(made, SPARE + wanted.id)
            _clear(cluster, SPARE + wanted.id if wanted else "")


# -- what is there --------------------------------------------------------------------------------------------


def _every(cluster: Cluster) -> list[Snapshot]:
    rows = cluster.rows(
        """
        SELECT right(d.datname, 32), pg_database_size(d.oid),
               CASE WHEN EXISTS (SELECT FROM pg_database AS s
                                 WHERE s.datname = %s || right(d.datname, 32) AND s.datconnlimit <> -2)
                    THEN 'ready'  -- and not one that a killed server has dropped by half
                    WHEN EXISTS (SELECT FROM pg_stat_activity WHERE application_name = %s || right(d.datname, 32))
                    THEN 'being prepared'
                    ELSE 'none' END,
               shobj_description(d.oid, 'pg_database')
        FROM pg_database AS d WHERE d.datname ~ %s AND starts_with(d.datname, %s)
        """,
        SPARE, COPY, OURS, SNAPSHOT,
    )  # fmt: skip
    found = [Snapshot(*row[:3], **_facts(row[3], SNAPSHOT + row[0])) for row in rows]
    return sorted(found, key=lambda each: each.taken, reverse=True)


def _facts(comment: str | None, stored: str) -> dict[str, Any]:
    """Return what a comment tells. One that somebody has changed tells nothing, and the snapshot is still there."""
    try:
        told = json.loads(comment or "")
        return {name: told[name] for name in Snapshot.__dataclass_fields__ if name not in ("id", "size", "spare")}
    except (ValueError, KeyError, TypeError):
        return {"name": stored}


def _of_database(cluster: Cluster) -> list[Snapshot]:
    return [each for each in _every(cluster) if each.database == cluster.database]


def _find(cluster: Cluster, name: str) -> Snapshot:
    there = _of_database(cluster)
    if not there:
        raise Refused(f"There is no snapshot of {cluster.database}. `invoke snapshot` takes one.")
    if not name:
        return there[0]
    name = unicodedata.normalize("NFC", name)
    for each in there:
        if each.name == name:
            return each
    names = ", ".join(each.name for each in there)
    raise Refused(f"There is no snapshot {name!r} of {cluster.database}, so nothing was done. There are: {names}.")


def _unwanted(cluster: Cluster, spare: str) -> list[str]:
    """Return our databases that are no longer wanted: all but the snapshots, and those whose name begins as `spare`."""
    found = cluster.rows("SELECT datname, datconnlimit = -2 FROM pg_database WHERE datname ~ %s", OURS)
    wanted = (SNAPSHOT, *filter(None, [spare]))
    return [name for name, half_dropped in found if half_dropped or not name.startswith(wanted)]


def _free(engine: Engine, cluster: Cluster) -> int:
    """Return the bytes that are free on the disk that holds the cluster."""
    # With Docker in a virtual machine the directory has another path there.
    return places.free(cluster.directory if cluster.directory.exists() else engine.root / "data")


# -- making and dropping --------------------------------------------------------------------------------------


def _take_over(cluster: Cluster) -> None:
    """Become the one who makes and drops our databases, for as long as this session lasts.

    Ends the background's work, and what a command that was killed has left at work in the server.
    """
    deadline = time.monotonic() + 30
    while cluster.rows(f"SELECT pg_terminate_backend(pid) {AT_WORK}"):
        if time.monotonic() > deadline:
            raise StackError("An earlier snapshot or restore is still at work in the server. Wait, then try again.")
        time.sleep(0.01)
    cluster.rows("SELECT pg_advisory_lock(%s)", _MAKER)


def _spare(engine: Engine, cluster: Cluster, snapshot: Snapshot) -> str:
    """Return the name of a copy of a snapshot that may be given away, waiting for it or making it."""
    if snapshot.spare == "being prepared":
        with _waiting(f"the spare copy of {snapshot.name}, which is being prepared"):
            while snapshot.spare == "being prepared":
                time.sleep(0.02)
                snapshot = _find(cluster, snapshot.name)
    _take_over(cluster)
    if _find(cluster, snapshot.name).spare == "ready":
        return SPARE + snapshot.id
    say(f"There is no spare copy of {snapshot.name} yet, so one is made first.")
    return _copy(engine, cluster, snapshot.stored, snapshot.name, snapshot.size)


def _copy(engine: Engine, cluster: Cluster, source: str, title: str, size: int) -> str:
    """Copy a database in front of the user, and return the name of the copy. Raises StackError without the room."""
    if _free(engine, cluster) < size + MARGIN:
        _clear(cluster)
    if _free(engine, cluster) < size + MARGIN:
        raise StackError(
            f"There is no room for a copy of the database: it takes {human(size)}, and {human(_free(engine, cluster))}"
            " of the disk are free. Nothing was done. Delete a snapshot with `invoke drop-snapshot NAME`, or make room."
        )
    made = MAKING + uuid.uuid4().hex
    with _waiting(f"a copy of {title} ({human(size)})"):
        cluster.copy(source, made)
    return made


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    with live() as show:
        show(what)
        yield


def _tell(cluster: Cluster) -> None:
    """Say whose sessions are about to end."""
    if sessions := cluster.sessions(cluster.database):
        number = f"{len(sessions)} session{'s' * (len(sessions) > 1)}"
        say(f"Ending {number} on {cluster.database}: {', '.join(sorted(set(sessions)))}.")


def _keep(cluster: Cluster, restored: Snapshot) -> None:
    """Make a snapshot of the database by giving it another name, within a transaction."""
    kept = Snapshot(
        uuid.uuid4().hex, 0, "none", _from_the_clock(_of_database(cluster)), cluster.database, time.time(), 0,
        cluster.version, f"replaced by {restored.name}", cluster.comment(cluster.database),
    )  # fmt: skip
    cluster.rename(cluster.database, kept.stored)
    cluster.let_in(kept.stored, anybody=False)
    cluster.set_comment(kept.stored, kept.facts())
    say(f"What is replaced stays as the snapshot {kept.name}.")


def _doom(cluster: Cluster, snapshot: Snapshot) -> None:
    """Give a snapshot and its spare up, within a transaction; they are dropped in the background."""
    for name in (snapshot.stored, SPARE + snapshot.id):
        if cluster.oid(name):
            cluster.rename(name, DOOMED + uuid.uuid4().hex)


def _clear(cluster: Cluster, spare: str = "") -> None:
    for name in _unwanted(cluster, spare):
        cluster.run("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)


def _go_on_in_background(engine: Engine) -> None:
    """Let `keep_ready` run in a process that outlives this one and its terminal."""
    program = "from stack import engine, snapshots; snapshots.keep_ready(engine.choose())"
    subprocess.Popen(
        [sys.executable, "-c", program], cwd=engine.root, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


# -- names ----------------------------------------------------------------------------------------------------


def names_of(directory: Path) -> Path:
    """Return the file that names the snapshots in a data directory, for when the server is down."""
    return directory.with_name(f".{directory.name}-snapshots")


def _remember(engine: Engine, cluster: Cluster) -> None:
    names = "".join(f"{each.name}\n" for each in _every(cluster))
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


def _moment(snapshot: Snapshot) -> str:
    return f"{datetime.fromtimestamp(snapshot.taken):%Y-%m-%d %H:%M:%S}"
