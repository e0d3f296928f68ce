"""Convex out of a file, about to take the place of the one that is there: load."""

from __future__ import annotations

import tarfile
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from stack.engines.base import Engine, need
from stack.ground import disk, files
from stack.ground.errors import StackError
from stack.ground.talk import human, say
from stack.server.admin import Cluster
from stack.sql.stackfile import DATABASE, TABLES, Convex, StackFile
from stack.verbs import convex_tables, exchange, halves, spares
from stack.verbs.drop import Beside
from stack.verbs.facts import MARK, made_comment
from stack.verbs.feed import Piped, words
from stack.verbs.store import FILLING, MAKING, SPARE, UNDO


class Arriving:
    """What is to become of Convex when a file with both stores is loaded."""

    def __init__(self, engine: Engine, file: StackFile, told: Convex, typed: str) -> None:
        """Raise Refused when the backend here is older than the one that wrote it."""
        self._engine, self._file, self._told = engine, file, told
        self.convex = need(engine.convex, engine)
        image = halves.Image(*self.convex.image())
        named = "FILE" if typed == "-" else typed
        without = f"`tar -xOf {named} {DATABASE} | invoke load -` loads the database alone."
        halves.compare(f"{file.name} was written", halves.Image(told.image, told.built), image, without)
        self.home = halves.home(engine)
        self._own = convex_tables.home(engine)
        self.kept = Beside(uuid.uuid4().hex, *(image if self.home else ("", "")), self._own)
        """What is kept of the Convex that is here."""
        self._keys = halves.Keys(engine)
        self._made = halves.new(engine.root)

    @contextmanager
    def unpacked(self) -> Iterator[None]:
        """Unpack it beside the one that is here; it is cleared away unless it has taken that one's place.

        Raises Refused when something in it would lead elsewhere, StackError when it cannot be written.
        """
        data = self._made.parent
        if disk.free(data) < self._told.size + spares.MARGIN:
            raise StackError(
                f"There is no room for the Convex of {self._file.name}: it takes {human(self._told.size)}, and"
                f" {human(disk.free(data))} of the disk are free. Nothing was done. Make room."
            )
        try:
            self._made.mkdir()
            with (
                self.convex.unpacking(self._made) as packed,
                tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as target,
            ):
                for member, content in self._file.members():
                    target.addfile(member, content)
            yield
        finally:
            if self._made.exists():
                halves.give_up(self._made)
                spares.in_background(self._engine)  # it deletes that

    def fill_tables(self, cluster: Cluster) -> None:
        """Bring its tables into a database aside, where they are in the server. Raises StackError."""
        if not self._own:
            return
        like, self._tables = self._own if cluster.oid(self._own) else cluster.database, MAKING + uuid.uuid4().hex
        cluster.make_like(like, self._tables, limit=MARK, comment=made_comment())
        cluster.allow(self._tables, anybody=True, limit=FILLING)
        options = ("--single-transaction", "--no-owner", "--no-privileges")
        with Piped(self._engine.client("pg_restore", *options, stdin=True, into={"dbname": self._tables})) as restore:
            restore.feed(self._file.archive(TABLES))
            if code := restore.end():
                raise StackError(f"Convex's tables were not loaded, and all is as it was. {words(restore, code)}")

    def exchange_tables(self, cluster: Cluster) -> None:
        """Let them take their place, within the transaction that makes the exchange."""
        if self._own:
            convex_tables.exchange(cluster, self._tables, self._own, UNDO + self.kept.digits)

    def along(self, cluster: Cluster, database: str, by: Cluster | None) -> AbstractContextManager[None]:
        """Let it go with the database that takes the user's place within, in a transaction of the session `by`."""
        there, source = halves.Halves(self._engine, cluster), SPARE + uuid.uuid4().hex
        made, self._made = self._made, there.of(source)
        made.rename(self._made)
        files.sync_directory(there.data)
        return exchange.along(self._engine, cluster, (source, UNDO + self.kept.digits), database, by)

    def tell(self) -> None:
        """Say what becomes of admin keys; the backend answers again."""
        theirs, ours = self._told.instance, self.convex.instance()
        if theirs != ours:
            say(
                f"It comes from the Convex instance {theirs}, and this one is {ours} (CONVEX_INSTANCE_NAME): admin keys"
                " from there do not work here. `invoke admin-key` prints one that does."
            )
        self._keys.tell("made before")


def arriving(engine: Engine, file: StackFile | None, typed: str) -> Arriving | None:
    """Return what is to become of Convex; None when it stays as it is, and for a file with both that is said."""
    if not file:
        return None
    left_out = f"The Convex in {file.name} is left out, and the database alone is loaded"
    if not file.convex:
        if halves.home(engine):
            say(f"{file.name} has the database alone: Convex stays as it is.")
    elif not engine.convex or not engine.convex.instance():
        say(f"{left_out}: there is no Convex here.")
    elif place := engine.convex.elsewhere():
        say(f"{left_out}: Convex keeps its state in {place} here.")
    elif file.has_tables != bool(convex_tables.home(engine)):
        ways = "in its directory", "in PostgreSQL (the layer convex-postgres)"
        here, there = ways[not file.has_tables], ways[file.has_tables]
        say(f"{left_out}: Convex keeps its tables {here} here, and there it was {there}.")
    else:
        return Arriving(engine, file, file.convex, typed)
    return None
