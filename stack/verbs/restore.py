"""A save point in the place of what is there: the database, Convex's directory, or both together."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import NamedTuple

from stack.engines.base import Engine, need
from stack.ground.catalog import BACKEND
from stack.ground.errors import Refused
from stack.ground.talk import say
from stack.server.admin import Cluster
from stack.verbs import convex_tables, exchange, halves, spares
from stack.verbs.drop import BACK, HALF_BACK, Beside, keep_back, keep_convex_back, make_stand_in, what_goes
from stack.verbs.facts import MARK
from stack.verbs.forks import beside
from stack.verbs.spares import ask_what_goes, refuse_prepared, spare_of, tell_sessions
from stack.verbs.store import (
    SNAPSHOT,
    SPARE,
    UNDO,
    Snapshot,
    convex_of,
    find_one,
    free_name,
    of_database,
    option,
    typed,
)
from stack.verbs.wait import wait_usable

ONLY = ("", "pg", "convex", "both")
"""What may be asked for; empty: what STACK_SNAPSHOT says."""
PATIENCE = 60.0
"""Seconds that Convex may take until it answers again."""


def restore(
    engine: Engine, name: str = "", *, only: str = "", keep: bool = False, yes: bool = False, database: str = ""
) -> None:
    """Put a snapshot, the newest when there is no name, in the place of the database and of Convex's directory.

    With spares that is a few renames; without, copies are made first. What is replaced is what `undo` brings back, or
    becomes a snapshot with `keep`. Replication slots and subscriptions do not come along: they are named, and when one
    is in use, that is asked about unless `yes`. A fork that `database` names is replaced by a snapshot of it. Raises
    StackError; all is then as it was.
    """
    fork = beside(engine, database)
    bring_back(engine, lambda cluster: find_one(cluster, name), only=only, keep=keep, yes=yes, fork=fork)


def bring_back(
    engine: Engine,
    choose: Callable[[Cluster], Snapshot | None],
    *,
    only: str = "",
    keep: bool = False,
    yes: bool = False,
    by: str = "",
    fork: str = "",
) -> bool:
    """Do what `restore` does with the snapshot that is chosen; return False, with nothing done, when none is.

    `by` is the command that `undo` takes back, as it is typed, where it is not `restore`.
    """
    only = what(engine, only, ONLY, fork)
    if only == "convex" and keep:
        raise Refused(
            "`--keep` makes a snapshot of what is replaced, and a snapshot has the database in it. Nothing was done."
            " Leave out --keep, and `invoke undo` brings back what is replaced; or type `invoke snapshot` first."
        )
    with exchange.at_work(engine, fork) as cluster:
        snapshot = choose(cluster)
        if not snapshot:
            return False
        half = _half(engine, cluster, snapshot, only)
        by = by or f"restore {typed(snapshot.name)}{' --only convex' * (only == 'convex')}{option(cluster)}"
        told = _replace(engine, cluster, snapshot, half, How(by, only != "convex", keep, yes))
        spares.tell_and_tidy(engine, cluster)
    spares.go_on_in_background(engine)
    if half and half.goes and wait_for_convex(engine):
        half.tell_keys()
    say(told)
    return True


def wait_for_convex(engine: Engine) -> bool:
    """Wait until everything answers again; return False where Convex was left stopped, as it was before."""
    backend = next((each for each in engine.services() if each.name == BACKEND.name), None)
    if not backend or backend.ended or backend.state == "not started":
        return False
    wait_usable(engine, PATIENCE)
    return True


class How(NamedTuple):
    """How it is to be done."""

    by: str
    """The command, as it is typed."""
    pg: bool
    """Whether the database is exchanged."""
    keep: bool
    yes: bool


def what(engine: Engine, only: str, allowed: tuple[str, ...], fork: str = "") -> str:
    """Return which parts are meant: both, pg or convex. Raises Refused for another word, or without a Convex."""
    if fork:
        if only not in ("", "pg"):
            raise Refused("A fork has no Convex beside it, so nothing was done. Leave out --only.")
        return "pg"
    if only not in allowed:
        parts = ", ".join(filter(None, allowed))
        raise Refused(f"--only {only!r} is not to be had here, so nothing was done. Choose one of: {parts}.")
    if only == "convex":
        need(engine.convex, engine)
    return only or engine.settings.snapshot


class Half:
    """Convex's directory in a snapshot, about to take the place of the one that is there."""

    def __init__(self, engine: Engine, cluster: Cluster, snapshot: Snapshot) -> None:
        self._engine, self._cluster, self._snapshot = engine, cluster, snapshot
        self.convex = need(engine.convex, engine)
        self._there = halves.Halves(engine, cluster)
        self._stored, self._spare = self._there.of(snapshot.stored), self._there.of(SPARE + snapshot.id)
        self.home = halves.home(engine)
        self._own = convex_tables.home(engine)
        self.goes = not self.home or bool(self._own) or not halves.same(self.home, self._stored)
        """Whether it has to be exchanged at all."""

    def make_ready(self) -> None:
        """See to it that there is a copy to give away. Raises Refused when it cannot be used, StackError."""
        image, built = self.convex.image()
        its = self._snapshot
        without = f"`invoke restore {typed(its.name)} --only pg` brings back the database alone."
        convex_tables.refuse_another_home(self._engine, f"the snapshot {its.name}", its.convex_in, without)
        tables = convex_of(its.stored) if its.convex_in else ""
        convex_tables.refuse_gone(self._cluster, f"the snapshot {its.name}", (self._stored, tables), without)
        begins = f"The snapshot {its.name} was taken"
        halves.compare(begins, halves.Image(its.convex, its.convex_built), halves.Image(image, built), without)
        if not self._spare.exists():
            say(f"There is no spare copy of Convex's part of {its.name} yet, so one is made first.")
            halves.copy(self.convex, self._there, self._stored, self._spare)
        self.kept = Beside(uuid.uuid4().hex, image, built, self._own)
        self._keys = halves.Keys(self._engine)

    def along(self, database: str, kept_as: str) -> AbstractContextManager[None]:
        """Let it go with the database that takes the user's place within; empty: alone."""
        names = SPARE + self._snapshot.id, kept_as + self.kept.digits
        return exchange.along(self._engine, self._cluster, names, database)

    def make_tables_ready(self) -> None:
        """See to it that there is a copy of its tables to give away, where they are in the server."""
        self._new = convex_tables.spare(self._engine, self._cluster, self._snapshot) if self._own else ""

    def exchange_tables(self, kept_as: str) -> None:
        """Let them take their place, within the transaction that makes the exchange."""
        if self._own:
            convex_tables.exchange(self._cluster, self._new, self._own, kept_as + self.kept.digits)

    def tell_keys(self) -> None:
        """Say so when the admin keys that were given out do not work any more: they come back with the directory."""
        self._keys.tell("made since then")


def _half(engine: Engine, cluster: Cluster, snapshot: Snapshot, only: str) -> Half | None:
    """Return what is to be done about Convex; None when nothing is."""
    if only == "pg" or not engine.convex:
        return None
    if snapshot.convex:
        return Half(engine, cluster, snapshot)
    if only == "convex":
        raise Refused(f"The snapshot {snapshot.name} has the database alone, so nothing was done.")
    if halves.home(engine):
        say(f"The snapshot {snapshot.name} has the database alone: Convex stays as it is.")
    return None


def _replace(engine: Engine, cluster: Cluster, snapshot: Snapshot, half: Half | None, how: How) -> str:
    """Exchange what is asked for, and return what to say of it."""
    moves = half if half and half.goes else None
    if moves:
        moves.make_ready()
    if how.pg:
        back = _replace_database(engine, cluster, snapshot, moves, how)
    else:
        back = _replace_convex(cluster, snapshot, moves, how) if moves else ""
    parts = [cluster.database] * how.pg + ["Convex"] * bool(half and (half.goes or not how.pg))
    are = "are as they were" if len(parts) > 1 else "is as it was"
    same = " Convex has not changed since, and was left running." if half and not half.goes else ""
    told = f"{' and '.join(parts)} {are} when the snapshot {snapshot.name} was taken, {snapshot.moment}.{same}"
    return f"{told} {back}".rstrip()


def _replace_database(engine: Engine, cluster: Cluster, snapshot: Snapshot, half: Half | None, how: How) -> str:
    """Give a snapshot's database the user's name, with Convex's half; return what `undo` would bring back."""
    refuse_prepared(cluster, cluster.database)
    told = ask_what_goes(cluster, cluster.database, set(), keep=how.keep, yes=how.yes)
    new = spare_of(engine, cluster, snapshot)
    if half:
        half.make_tables_ready()
    there = cluster.oid(cluster.database) is not None
    ask_what_goes(cluster, cluster.database, told, keep=how.keep, yes=how.yes)  # a copy may have taken a while
    beside, back = half.kept if half else Beside(), ""
    alone = half and not how.keep and (not there or what_goes(cluster, cluster.database))
    stand_in = make_stand_in(cluster, new, beside) if alone else ""
    tell_sessions(cluster)
    along = half.along(new, SNAPSHOT if how.keep else UNDO) if half else nullcontext()
    with along, cluster.alone(cluster.database), cluster.transaction():
        turn = cluster.transaction_id()
        used = replace(snapshot, used=time.time(), used_turn=turn)
        cluster.set_comment(snapshot.stored, used.facts())
        cluster.allow(new, anybody=True, limit=snapshot.limit, template=snapshot.template)
        cluster.set_comment(new, snapshot.comment)
        if there and how.keep:
            _keep(cluster, snapshot, turn, beside)
        elif there and keep_back(cluster, how.by, half=beside):
            back = BACK
        if stand_in and not back:
            keep_convex_back(cluster, stand_in, how.by, beside)
            back = HALF_BACK
        if half:
            half.exchange_tables(SNAPSHOT if how.keep else UNDO)
        cluster.rename(new, cluster.database)
    return back


def _replace_convex(cluster: Cluster, snapshot: Snapshot, half: Half, how: How) -> str:
    """Give Convex its half alone; return what `undo` would bring back."""
    spares.take_over(cluster)
    half.make_tables_ready()
    stand_in = make_stand_in(cluster, snapshot.stored, half.kept)
    with half.along("", UNDO), cluster.transaction():
        half.exchange_tables(UNDO)
        keep_convex_back(cluster, stand_in, how.by, half.kept)
    return BACK


def _keep(cluster: Cluster, restored: Snapshot, turn: int, half: Beside) -> None:
    """Make a snapshot of the database by giving it another name, within a transaction."""
    kept = Snapshot(
        half.digits or uuid.uuid4().hex, 0, "none", free_name(of_database(cluster)), cluster.database, time.time(), 0,
        cluster.version, f"replaced by {restored.name}", *cluster.marks(cluster.database), turn,
        convex=half.image, convex_built=half.built, convex_in=half.tables,
    )  # fmt: skip
    cluster.allow(cluster.database, anybody=False, limit=MARK)
    cluster.set_comment(cluster.database, kept.facts())
    cluster.shut(cluster.database)
    cluster.rename(cluster.database, kept.stored)
    say(f"What is replaced stays as the snapshot {kept.name}.")
