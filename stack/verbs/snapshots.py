"""The verbs on save points: taken, brought back, dropped, listed."""

from __future__ import annotations

import json
import time
import unicodedata
import uuid
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from stack.engines.base import Engine
from stack.ground.errors import Refused, StackError
from stack.ground.tables import print_columns
from stack.ground.talk import confirm, give, human, say
from stack.server.admin import Cluster
from stack.verbs import spares
from stack.verbs.drop import BACK, clear_out, doom, keep_back, keep_snapshot_back, kept_back, what_goes
from stack.verbs.login import administrator
from stack.verbs.names import remember
from stack.verbs.spares import (
    ask_what_goes,
    refuse_prepared,
    spare_of,
    take_over,
    tell_sessions,
)
from stack.verbs.store import MARK, WORK, Snapshot, every_one, find_one, of_database, typed, unwanted_copies

LONGEST = 200
"""Characters in the name of a snapshot: more than a person reads in a table."""


def take(engine: Engine, name: str = "", *, message: str = "", overwrite: bool = False) -> str:
    """Copy the database into a snapshot, and return its name; without one the clock gives it.

    Ends the sessions on the database; new ones wait until the copy is made. Raises Refused when the name is taken
    (unless `overwrite`) or cannot be one, StackError when there is no room or the copy fails.
    """
    name = _checked(name) if name else ""
    if not message.isprintable():
        raise Refused("A message is one line of printable characters. Nothing was done.")
    with administrator(engine, WORK) as cluster:
        there = of_database(cluster)
        name = name or _from_the_clock(there)
        old = [each for each in there if each.name == name]
        if old and not overwrite:
            raise Refused(
                f"There is a snapshot {name!r} already, so nothing was done. Choose another name, or add --replace."
            )
        if cluster.oid(cluster.database) is None:
            raise StackError(f"There is no database {cluster.database!r} to take a snapshot of. Type `invoke doctor`.")
        for database in (cluster.database, *(each.stored for each in old)):
            refuse_prepared(cluster, database)
        made = spares.copy_database(engine, cluster)
        size = cluster.size(made)
        comment, limit, template = cluster.marks(cluster.database)
        now = time.time()
        for each in old:
            clear_out(cluster, each)
        with cluster.transaction():
            turn = cluster.transaction_id()
            new = Snapshot(
                uuid.uuid4().hex, size, "none", name, cluster.database, now, now, cluster.version, message, comment,
                limit, template, turn, turn,
            )  # fmt: skip
            for each in old:
                doom(cluster, each)
            cluster.rename(made, new.stored)
            cluster.set_comment(new.stored, new.facts())
        remember(engine, cluster)
    spares.go_on_in_background(engine)
    say(f"Took the snapshot {name} of {new.database} ({human(size)}). `invoke restore {typed(name)}` brings it back.")
    return name


def restore(engine: Engine, name: str = "", *, keep: bool = False, yes: bool = False) -> None:
    """Put a snapshot, the newest when there is no name, in the place of the database.

    With a spare that is two renames; without, a copy is made first. The replaced database is what `undo` brings back,
    or becomes a snapshot with `keep`. Replication slots and subscriptions do not come along: they are
    named, and when one is in use, that is asked about unless `yes`. Raises StackError; the database is then as it was.
    """
    with administrator(engine, WORK) as cluster:
        snapshot = find_one(cluster, name)
        refuse_prepared(cluster, cluster.database)
        told = ask_what_goes(cluster, cluster.database, set(), keep=keep, yes=yes)
        new = spare_of(engine, cluster, snapshot)
        there = cluster.oid(cluster.database) is not None
        ask_what_goes(cluster, cluster.database, told, keep=keep, yes=yes)  # making a copy may have taken a while
        tell_sessions(cluster)
        with cluster.alone(cluster.database), cluster.transaction():
            turn, kept = cluster.transaction_id(), False
            used = replace(snapshot, used=time.time(), used_turn=turn)
            cluster.set_comment(snapshot.stored, used.facts())
            cluster.allow(new, anybody=True, limit=snapshot.limit, template=snapshot.template)
            cluster.set_comment(new, snapshot.comment)
            if there and keep:
                _keep(cluster, snapshot, turn)
            elif there:
                kept = keep_back(cluster, f"restore {typed(snapshot.name)}")
            cluster.rename(new, cluster.database)
        remember(engine, cluster)
    spares.go_on_in_background(engine)
    back = f" {BACK}" if kept else ""
    say(f"{cluster.database} is as it was when the snapshot {snapshot.name} was taken, {snapshot.moment}.{back}")


def drop(engine: Engine, name: str, *, yes: bool) -> None:
    """Delete a snapshot, after asking; `undo` brings it back.

    Raises Refused when there is none of that name, or the user says no.
    """
    if not name:
        raise Refused("Which snapshot? Type `invoke drop-snapshot NAME`; `invoke snapshots` lists them.")
    with administrator(engine, WORK) as cluster:
        snapshot = find_one(cluster, name)
        what = f"{snapshot.name} ({human(snapshot.size)}, taken {snapshot.moment})"
        refuse_prepared(cluster, snapshot.stored)
        for line, _ in what_goes(cluster, snapshot.stored):
            say(f"With it goes {line}.")
        confirm(f"Delete the snapshot {what}?", yes=yes)
        take_over(cluster)
        clear_out(cluster, snapshot)
        with cluster.transaction():
            kept = keep_snapshot_back(cluster, snapshot)
        remember(engine, cluster)
    spares.go_on_in_background(engine)
    say(f"Deleted the snapshot {snapshot.name}.{f' {BACK}' * kept}")


def listed(engine: Engine) -> list[Snapshot]:
    """Return every snapshot of the cluster, the newest first; what a crash has left is cleared away meanwhile."""
    with administrator(engine, "invoke") as cluster:
        remember(engine, cluster)
        unwanted = unwanted_copies(cluster)
        if kept := kept_back(cluster):
            say(f"`invoke undo` brings back {kept}.")
        for each in unwanted:
            if each.reason:
                what = f"{each.name} ({human(each.size)})"
                say(f"The copy {what} could not be dropped: {each.reason} Type `invoke doctor`.")
        if unwanted:
            spares.go_on_in_background(engine)
        return every_one(cluster)


def _keep(cluster: Cluster, restored: Snapshot, turn: int) -> None:
    """Make a snapshot of the database by giving it another name, within a transaction."""
    kept = Snapshot(
        uuid.uuid4().hex, 0, "none", _from_the_clock(of_database(cluster)), cluster.database, time.time(), 0,
        cluster.version, f"replaced by {restored.name}", *cluster.marks(cluster.database), turn,
    )  # fmt: skip
    cluster.allow(cluster.database, anybody=False, limit=MARK)
    cluster.set_comment(cluster.database, kept.facts())
    cluster.shut(cluster.database)
    cluster.rename(cluster.database, kept.stored)
    say(f"What is replaced stays as the snapshot {kept.name}.")


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


def print_list(engine: Engine, *, as_json: bool) -> None:
    """Print the snapshots of every database of the cluster, the newest first."""
    found = listed(engine)
    if as_json:
        give(json.dumps([_snapshot(each) for each in found], indent=2))
    elif found:
        rows = [(each.name, each.age, human(each.size), each.spare, each.database, each.message)
                for each in found]  # fmt: skip
        print_columns(("SNAPSHOT", "AGE", "SIZE", "SPARE", "DATABASE", "MESSAGE"), rows)
    else:
        say("There is no snapshot. `invoke snapshot` takes one.")


def _snapshot(each: Snapshot) -> dict[str, Any]:
    return {
        "name": each.name,
        "taken": datetime.fromtimestamp(each.taken, timezone.utc).isoformat(timespec="seconds") if each.taken else None,
        "database": each.database,
        "bytes": each.size,
        "server_version": each.server_version,
        "message": each.message,
        "spare": each.spare,
    }
