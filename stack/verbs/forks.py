"""What forks are told by: a comment of ours, with what they are copies of and how long they are wanted."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from stack.server.admin import Cluster
from stack.verbs.store import COMMENT, LATEST, OURS, read_json


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
        COMMENT, cluster.database, OURS,
    )  # fmt: skip
    found = []
    for name, size, sessions, comment in rows:
        told = read_json(comment)
        source, made, until = (told.get(key) for key in ("fork of", "made", "until"))
        clocks = [each for each in (made, until) if isinstance(each, (int, float)) and 0 <= each < LATEST]
        if isinstance(source, str) and len(clocks) == 2:
            found.append(Fork(name, size, sessions, source, *clocks))
    return sorted(found, key=lambda each: each.made, reverse=True)
