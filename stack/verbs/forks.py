"""What forks are told by, a comment of ours; how one is meant in the place of the user's, and what goes with it."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass

from stack.engines.base import Engine
from stack.ground.errors import Refused
from stack.server.admin import Cluster
from stack.verbs.drop import clear_out, doom, give_up, give_way, kept_back, what_goes
from stack.verbs.facts import COMMENT, LATEST, read_json
from stack.verbs.login import administrator
from stack.verbs.store import OURS, Snapshot, every_one, typed


@dataclass(frozen=True)
class Fork:
    """A database beside the user's, which anybody may enter. The last three fields stand in its comment."""

    name: str
    size: int
    """In bytes."""
    sessions: int
    """How many there are on it."""
    source: str
    """What it is a copy of: the user's database, or a snapshot."""
    made: float
    """Seconds since 1970."""
    until: float
    """The same, of when it is no longer wanted; 0: nobody has said."""

    def facts(self) -> str:
        """Return the comment that tells it from a database of the user's."""
        return json.dumps({"stack": 2, "fork of": self.source, "made": self.made, "until": self.until})

    @property
    def is_over(self) -> bool:
        """Whether it is to go."""
        return bool(self.until) and self.until < time.time() and not self.sessions


def forks(cluster: Cluster) -> list[Fork]:
    """Return the forks, the newest first. The database that is configured is none: whoever made that so, uses it."""
    rows = cluster.rows(
        """
        SELECT datname, coalesce(pg_database_size(oid), 0),
               (SELECT count(*) FROM pg_stat_activity AS a WHERE a.datid = d.oid), shobj_description(oid, 'pg_database')
        FROM pg_database AS d
        WHERE starts_with(shobj_description(oid, 'pg_database'), %s) AND datname <> %s AND datname !~ %s
        """,
        COMMENT, cluster.configured, OURS,
    )  # fmt: skip
    found = []
    for name, size, sessions, comment in rows:
        told = read_json(comment)
        source, made, until = (told.get(key) for key in ("fork of", "made", "until"))
        clocks = [each for each in (made, until) if isinstance(each, (int, float)) and 0 <= each < LATEST]
        if isinstance(source, str) and len(clocks) == 2:
            found.append(Fork(name, size, sessions, source, *clocks))
    return sorted(found, key=lambda each: each.made, reverse=True)


def beside(engine: Engine, database: str) -> str:
    """Return the database that was typed, when it is another one than the user's; else nothing."""
    endpoint = engine.endpoint() if database else None
    return "" if endpoint and endpoint.database == database else database


def point(cluster: Cluster, name: str, *, gone: bool = False) -> None:
    """Let what follows be done to a fork, in the place of the user's database.

    With `gone`, to one that was dropped by hand as well, as long as there are snapshots of it. Raises Refused for any
    other database.
    """
    there = [each.name for each in forks(cluster)]
    left = [each.database for each in every_one(cluster)] if gone else []
    if name not in (cluster.configured, *there, *left):
        known = f"There are: {', '.join(there)}." if there else "There is none."
        makes = "" if cluster.oid(name) else f" `invoke fork {typed(name)}` makes it."
        raise Refused(f"{name!r} is no fork, so nothing was done. {known}{makes}")
    cluster.database = name


def check(engine: Engine, fork: str) -> None:
    """Raise as `point` does for what `beside` has returned."""
    if fork:
        with administrator(engine, "invoke") as cluster:
            point(cluster, fork)


def snapshots_of(cluster: Cluster, name: str) -> list[Snapshot]:
    """Return the snapshots of a fork, which go with it."""
    return [each for each in every_one(cluster) if each.database == name]


def give_up_fork(cluster: Cluster, name: str) -> None:
    """Give up a fork with its snapshots and what `undo` would bring back of it, within a transaction."""
    for each in snapshots_of(cluster, name):
        doom(cluster, each)
    if (kept := kept_back(cluster)) and kept.was.database == name:
        give_way(cluster)
    give_up(cluster, name, shut=False)


def end_forks(cluster: Cluster) -> None:
    """Give up the forks whose time is over, one at a time; one that somebody enters at that moment stays."""
    import psycopg

    for each in forks(cluster):
        if each.is_over and not what_goes(cluster, each.name):
            for snapshot in snapshots_of(cluster, each.name):
                clear_out(cluster, snapshot)
            with suppress(psycopg.Error), cluster.transaction():
                give_up_fork(cluster, each.name)
