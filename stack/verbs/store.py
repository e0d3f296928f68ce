"""Save points inside the cluster: databases that nobody may enter, told by a mark, with their facts in a comment."""

from __future__ import annotations

import json
import shlex
import time
import unicodedata
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from stack.ground.errors import Refused
from stack.ground.talk import ago
from stack.server.admin import Cluster
from stack.verbs.facts import COMMENT, MARK, read_facts, read_json

if TYPE_CHECKING:
    from typing_extensions import LiteralString

SNAPSHOT, SPARE, DOOMED, UNDO = (f"stack-{part}-" for part in ("snapshot", "spare", "doomed", "undo"))
"""What our databases are called, before 32 hexadecimal digits; a spare has the digits of its snapshot."""
MAKING = "stack_making_"
"""The same of one that is being made: a file that fills it may say its name without quotes, as `:DBNAME` does."""
POOL = "stack_pool_"
"""The same before a number of one that `stack.take()` hands out: people see it."""
OURS = (
    "^(stack([-_])(snapshot|spare|making|doomed|undo)\\2[0-9a-f]{32}|stack_pool_[1-9][0-9]{0,17}"
    "|stack-convex-(snapshot|spare|undo)-[0-9a-f]{32})$"
)
FILLING = 0
"""The connection limit of one that a file is loaded into: none but superusers may enter."""
HALF_DROPPED = -2
"""The connection limit by which PostgreSQL marks what a killed server was dropping. Our comment is still there then."""
WORK, KEEPER, COPY = "stack-work", "stack-keeper", "stack-copy-"
"""What our sessions are called: a command's, the background's, and, before 32 digits, whose who copies a snapshot."""
MAKER = 0x57AC
"""The advisory lock of whoever makes or drops our databases."""
AT_WORK: LiteralString = """
    FROM pg_stat_activity AS a JOIN pg_stat_activity AS me ON me.pid = pg_backend_pid()
    WHERE a.pid <> me.pid AND a.datid = me.datid AND a.usesysid = me.usesysid
      AND a.application_name ~ '^stack-(work|keeper|copy-[0-9a-f]{32})$'
      AND EXISTS (SELECT FROM pg_locks AS l WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.database = me.datid
                  AND l.classid = 0 AND l.objid = 22444 AND l.objsubid = 1)"""
"""Our other sessions at work. A name may be anybody's: they also are where we are, and hold the lock or wait for it."""
BEFORE = {"name", "database", "taken", "used", "server_version", "message", "comment"}
"""The facts that a snapshot told before ours had a mark."""


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
    convex: str = ""
    """The image of the Convex backend whose directory was saved at the same moment; empty: the database alone."""
    convex_built: str = ""
    """When that image was built."""
    convex_size: int = 0
    """The bytes in that directory; 0 where nobody has counted them."""
    convex_in: str = ""
    """The database in which that backend kept its tables, a copy of which is beside ours; empty: in its directory."""
    pg: bool = True
    """Whether there is a database in it; else it stands for a directory of Convex alone."""
    seed: str = ""
    """What the runs of seed/'s files are called that it was made of, one file longer each; empty: not by `fresh`."""
    part: bool = False
    """Whether more files followed: `fresh` begins from it, and nobody has asked for it."""
    roles: list[str] = field(default_factory=list)
    """The roles that those files name: they are the server's, so another command may have dropped one."""

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
        if self.half_dropped or self.name.startswith(POOL):  # whoever has one of a pool may change its limit
            return (self.comment or "").startswith(COMMENT) or self.limit == MARK
        if self.name.startswith(MAKING) and (self.limit == FILLING or (self.comment or "").startswith(COMMENT)):
            return True  # the file that fills it may change one of the two
        return self.limit == MARK or (self.name.startswith(SNAPSHOT) and read_facts(self.comment).keys() >= BEFORE)

    @property
    def is_ready(self) -> bool:
        """Whether it is whole, and may be given away."""
        return self.ours and not (self.half_dropped or self.enterable or self.in_use)

    @property
    def is_snapshot(self) -> bool:
        """Whether it holds a snapshot."""
        return self.ours and self.name.startswith(SNAPSHOT) and not self.half_dropped

    @property
    def is_kept(self) -> bool:
        """Whether it is what `undo` brings back."""
        return self.ours and self.name.startswith(UNDO) and not self.half_dropped

    @property
    def is_pooled(self) -> bool:
        """Whether it is one of a pool: its keeper alone drops it, until that has failed."""
        return self.ours and self.name.startswith(POOL) and not (self.half_dropped or self.reason)

    @property
    def reason(self) -> str:
        """Why it could not be dropped, at the last try; empty when it was not tried."""
        told = read_json(self.comment).get("reason") if self.ours else ""
        return told if isinstance(told, str) else ""


def all_stored(cluster: Cluster) -> list[Stored]:
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


def every_one(cluster: Cluster) -> list[Snapshot]:
    """Return every snapshot, the newest first."""
    stored = all_stored(cluster)
    ready = {each.name for each in stored if each.is_ready}
    prepared = {name for (name,) in cluster.rows(f"SELECT a.application_name {AT_WORK}")}
    found = []
    for each in filter(lambda each: each.is_snapshot, stored):
        digits = each.name[len(SNAPSHOT) :]
        spare = "ready" if SPARE + digits in ready else "being prepared" if COPY + digits in prepared else "none"
        limit = -1 if each.limit == MARK else each.limit
        facts = {"name": each.name, "limit": limit, **read_facts(each.comment)}
        found.append(Snapshot(digits, each.size, spare, **facts))
    return sorted(found, key=lambda each: each.order, reverse=True)


def of_database(cluster: Cluster) -> list[Snapshot]:
    """Return the snapshots of the user's database."""
    return [each for each in every_one(cluster) if each.database == cluster.database]


def find_one(cluster: Cluster, name: str) -> Snapshot:
    """Return the snapshot of a name, the newest without one. Raises StackError."""
    every, name = every_one(cluster), unicodedata.normalize("NFC", name)
    there = [each for each in every if each.database == cluster.database]
    # One whose comment was changed belongs to no database; it is found by the name that `snapshots` shows.
    for each in [*there, *(each for each in every if not each.database)]:
        if each.name == name:
            return each
    latest = next((each for each in there if not each.part), None)
    if not there or not (name or latest):
        raise Refused(f"There is no snapshot of {cluster.database}. `invoke snapshot{option(cluster)}` takes one.")
    if latest and not name:
        return latest
    names = ", ".join(each.name for each in there)
    raise Refused(f"There is no snapshot {name!r} of {cluster.database}, so nothing was done. There are: {names}.")


def free_name(there: list[Snapshot]) -> str:
    """Return a name by the clock that no snapshot has."""
    name, taken = f"{datetime.now():%Y-%m-%d_%H%M%S}", {each.name for each in there}
    return next(free for free in (name, *(f"{name}-{n}" for n in range(2, len(taken) + 3))) if free not in taken)


def unwanted_copies(cluster: Cluster, spare: str = SPARE) -> list[Stored]:
    """Return our databases that are no longer wanted: all but the snapshots, and those whose name begins as `spare`."""
    there = all_stored(cluster)
    kept = [each for each in there if each.is_snapshot or each.is_kept]
    # That of a snapshot that was dropped keeps its name.
    dropped = [SNAPSHOT + str(read_json(each.comment).get("id")) for each in kept]
    wanted = {convex_of(name) for name in (*(each.name for each in kept), *dropped)}
    found = [each for each in there if each.ours and not (each.is_snapshot or each.is_kept or each.is_pooled)]
    spares = (spare, convex_of(spare)) if spare else ()
    return [each for each in found if each.half_dropped or not (each.name in wanted or each.name.startswith(spares))]


def convex_of(database: str) -> str:
    """Return what that database is called which has Convex's tables and goes with one of ours."""
    return database.replace("stack-", "stack-convex-", 1)


def typed(name: str) -> str:
    """Return a name as it is typed after a command."""
    return f"--name={shlex.quote(name)}" if name.startswith("-") else shlex.quote(name)


def option(cluster: Cluster) -> str:
    """Return what is to follow a command, so that it means the database that is worked on."""
    return "" if cluster.database == cluster.configured else f" --database={shlex.quote(cluster.database)}"
