"""The only code that drops databases: what is given up, what `undo` keeps, and what goes with each."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from stack.ground.errors import printable
from stack.ground.talk import human, say
from stack.server.admin import Cluster
from stack.server.session import LoginFailed
from stack.verbs import leases, made_roles
from stack.verbs.facts import LATEST, MARK, made_comment, read_facts, read_json
from stack.verbs.store import DOOMED, MAKING, SPARE, UNDO, Snapshot, Stored, all_stored, option, typed, unwanted_copies

BACK = "`invoke undo` takes that back."
HALF_BACK = "`invoke undo` takes back what became of Convex, and not the database."
"""The last sentence of whatever can be undone, in part too."""


def clear_out(cluster: Cluster, snapshot: Snapshot) -> None:
    """End the sessions of whoever has opened a snapshot or its spare by hand."""
    for name in (snapshot.stored, SPARE + snapshot.id):
        cluster.end_sessions(cluster.oid(name))


def doom(cluster: Cluster, snapshot: Snapshot) -> None:
    """Give a snapshot, its spare and its pool up, within a transaction; they are dropped in the background."""
    if leases.end(cluster, snapshot.id):
        say(
            f"The pool of {snapshot.name} ends with it; copies that are handed out go with the sessions that have them."
        )
    for each in all_stored(cluster):
        if each.ours and each.name in (snapshot.stored, SPARE + snapshot.id) and not each.half_dropped:
            give_up(cluster, each.name)


def give_up(cluster: Cluster, database: str, *, shut: bool = True) -> str:
    """Make a database one that is to be dropped, within a transaction, and return its new name."""
    name = DOOMED + uuid.uuid4().hex
    _take_away(cluster, database, name, made_comment(), shut=shut and database == cluster.database)
    return name


def _take_away(cluster: Cluster, database: str, name: str, told: str, *, shut: bool) -> None:
    """Give a database a name and a comment of ours, and let nobody in."""
    if not shut:  # the lock that a rename takes keeps everybody out at once, and a comment's does not
        cluster.rename(database, name)
    now = database if shut else name
    cluster.allow(now, anybody=False, limit=MARK)  # and a template cannot be dropped
    cluster.set_comment(now, told)
    if shut:  # what waits for anything after that keeps every login of the server waiting
        cluster.shut(database)
        cluster.rename(database, name)


def clear_all_but(cluster: Cluster, spare: str = "") -> None:
    """Drop what is no longer wanted. One that cannot be dropped does not stop the others."""
    for each in unwanted_copies(cluster, spare):
        drop_one(cluster, each)
    made_roles.drop(cluster)


def drop_one(cluster: Cluster, copy: Stored) -> str:
    """Drop a database of ours; return why it cannot be, and write it down for whoever asks. Empty: it is gone."""
    import psycopg

    name = copy.name
    try:
        if not copy.half_dropped:
            cluster.end_sessions(cluster.oid(name))
            with cluster.transaction():  # from here on it is known for ours, dropped by half too
                name = give_up(cluster, name)
            end_subscriptions(cluster, name)
        cluster.run("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)
    except (psycopg.Error, LoginFailed) as error:
        if cluster.connection.closed:
            raise
        reason = reason_of(error)
        with suppress(psycopg.Error):
            cluster.set_comment(name if cluster.oid(name) else copy.name, made_comment(reason))
        return reason
    return ""


def leaving_out(databases: Iterable[str]) -> str:
    """Return SQL that drops databases of a cluster which nobody serves, and lets no subscription of it go on."""
    from psycopg import sql

    statements: list[sql.Composable] = [sql.SQL("UPDATE pg_subscription SET subenabled = false, subslotname = NULL")]
    for name in databases:
        which = sql.SQL("datname = {}").format(sql.Literal(name))
        statements += [
            sql.SQL("DELETE FROM pg_subscription USING pg_database AS d WHERE d.oid = subdbid AND {}").format(which),
            sql.SQL("UPDATE pg_database SET datistemplate = false WHERE {}").format(which),
            sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)),
        ]
    return "".join(f"{each.as_string(None)};\n\n" for each in statements)


def reason_of(error: Exception) -> str:
    """Return PostgreSQL's own words on one line."""
    words = printable(" ".join(str(error).split()), one_line=True)
    return words if words.endswith(".") else f"{words}."


def end_subscriptions(cluster: Cluster, name: str) -> None:
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
        parts = [self.was.database] * self.was.pg + ["Convex"] * bool(self.was.convex)
        are = "as they were" if len(parts) > 1 else "as it was"
        what = f"the snapshot {self.was.name}" if self.is_snapshot else f"{' and '.join(parts)} {are}"
        return f"{what} before `invoke {self.by}`, {self.moment} ({human(self.size)})"


def kept_back(cluster: Cluster) -> Kept | None:
    """Return what `undo` would bring back; None when there is nothing."""
    for each in all_stored(cluster):
        told = read_json(each.comment)
        by, at, digits = told.get("undo"), told.get("at"), told.get("id")
        if each.is_kept and isinstance(by, str) and isinstance(at, (int, float)) and 0 <= at < LATEST:
            facts = {"name": "", **read_facts(each.comment)}
            return Kept(each.name, each.size, by, at, Snapshot(str(digits), each.size, "none", **facts))
    return None


class Beside(NamedTuple):
    """What is kept along with a database, of Convex: nothing without digits."""

    digits: str = ""
    """Those of the database, which the directory has in its name."""
    image: str = ""
    built: str = ""
    tables: str = ""
    """The database of its tables, of which a copy is kept too; empty: they are in that directory."""


def keep_back(
    cluster: Cluster,
    by: str,
    *,
    whatever: bool = False,
    shut: bool = True,
    half: Beside = Beside(),  # noqa: B008
) -> bool:
    """Take the user's database out of its place, within a transaction, for `undo` to bring it back.

    One with a replication slot or a subscription is given up instead, unless `whatever`: nobody would use the slot, and
    the server keeps its log for it. With `shut`, which is for a transaction that ends at once, logins wait before they
    read the name. Return whether it was kept.
    """
    if not whatever and what_goes(cluster, cluster.database):
        give_way(cluster)
        give_up(cluster, cluster.database, shut=shut)
        return False
    comment, limit, template = cluster.marks(cluster.database)
    was = Snapshot(
        "", 0, "none", "", cluster.database, time.time(), 0, cluster.version, "", comment, limit, template,
        convex=half.image, convex_built=half.built, convex_in=half.tables,
    )  # fmt: skip
    _keep_as_step(cluster, cluster.database, was, by, shut=shut, digits=half.digits)
    return True


def make_stand_in(cluster: Cluster, like: str, half: Beside) -> str:
    """Make an empty database that is to stand for a directory of Convex alone, and return its name."""
    made = MAKING + half.digits
    cluster.make_like(like, made, limit=MARK, comment=made_comment())
    return made


def keep_convex_back(cluster: Cluster, stand_in: str, by: str, half: Beside) -> None:
    """Keep Convex's directory alone for `undo`, within a transaction."""
    was = Snapshot(
        "", 0, "none", "", cluster.database, time.time(), pg=False, convex=half.image, convex_built=half.built,
        convex_in=half.tables,
    )  # fmt: skip
    _keep_as_step(cluster, stand_in, was, by, shut=False, digits=half.digits)


def keep_snapshot_back(cluster: Cluster, snapshot: Snapshot) -> bool:
    """Delete a snapshot, within a transaction, so that `undo` brings it back; return whether that can be."""
    kept = not what_goes(cluster, snapshot.stored)
    if kept:
        _keep_as_step(
            cluster, snapshot.stored, snapshot, f"drop-snapshot {typed(snapshot.name)}{option(cluster)}", shut=False
        )
    doom(cluster, snapshot)
    return kept


def _keep_as_step(cluster: Cluster, database: str, was: Snapshot, by: str, *, shut: bool, digits: str = "") -> None:
    give_way(cluster)
    told = json.dumps({**json.loads(was.facts()), "id": was.id, "undo": by, "at": time.time()})
    _take_away(cluster, database, UNDO + (digits or uuid.uuid4().hex), told, shut=shut)


def give_way(cluster: Cluster) -> bool:
    """Give up what `undo` would bring back, within a transaction or without; return whether there was something."""
    there = [each.name for each in all_stored(cluster) if each.is_kept]
    for each in there:
        give_up(cluster, each)
    return bool(there)


def what_goes(cluster: Cluster, database: str) -> list[tuple[str, bool]]:
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
