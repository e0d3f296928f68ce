"""The database aside while it is filled: its name, what its files name, and what it is to be in the end."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from stack.engines.base import Engine
from stack.server.admin import Cluster
from stack.server.queries import SETTINGS
from stack.verbs import drop, made_roles
from stack.verbs.arriving import Arriving
from stack.verbs.facts import COMMENT, MARK, made_comment
from stack.verbs.store import FILLING

OPTIONS = (*SETTINGS, "synchronous_commit=off", "lc_messages=C")
"""Of the sessions that fill it: the commit that counts is ours, and waits for all before it. Their words are read."""


class Aside:
    """The database aside, and the session that is about to exchange it for the user's."""

    def __init__(self, engine: Engine, cluster: Cluster, name: str) -> None:
        self.engine = engine
        self.cluster = cluster
        self.name = name
        self.made: list[str] = []
        """The roles that were made for it."""
        self.given: tuple[str | None, int, bool] | None = None
        """The comment, limit and mark that it has without those of a file; None: those of the user's database."""
        self.read: set[Path] = set()
        """The files that what filled it names."""
        self.named: set[str] = set()
        """The roles that what filled it names."""
        self.half: Arriving | None = None
        """What of Convex goes with it."""
        self.kept = self.half_kept = False
        """Whether `undo` brings back what it replaces; or of that, Convex alone."""
        self.untouched = 0
        """The last transaction before the exchange, when nobody had ever written to what is replaced; else 0."""
        self.stuck = ""
        """The statement that waited for a lock which only the exchange gives free."""

    @property
    def login(self) -> dict[str, str]:
        """Return libpq's parameters for a client that fills it."""
        return {"dbname": self.name, "options": " ".join(f"-c {each}" for each in OPTIONS)}

    def missing(self, role: str) -> bool:
        """Make a role that a file names and the server has not; return whether that was done. Raises StackError."""
        self.named.add(role)
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

    def look(self) -> None:
        """See, before the exchange is committed, whether anybody but what filled it has written anything.

        A transaction counts from then on, so whoever asks afterwards which is the last one sees the same.
        """
        replaced = self.cluster.writes(self.cluster.oid(self.cluster.database))
        self.untouched = 0 if any(replaced[:3]) else self.cluster.transaction_id()

    def marks(self, cluster: Cluster) -> tuple[str | None, int, bool]:
        """Return the comment, the connection limit and the mark as a template that it is to have in the end."""
        comment, limit, template = self.given or self.cluster.marks(cluster.database)  # not what is not committed yet
        its_comment, its_limit, _ = cluster.marks(self.name)
        # A comment and a limit that the file itself has set are its own.
        ours = (its_comment or "").startswith(COMMENT)
        return comment if ours else its_comment, limit if its_limit == FILLING else its_limit, template


def make_empty(place: Aside, *, rules: bool = True) -> None:
    """Make it empty, with the settings and grants that the user's database has, or without any."""
    cluster, comment = place.cluster, made_comment()
    cluster.make_like(cluster.database, place.name, limit=MARK, comment=comment, rules=rules)
