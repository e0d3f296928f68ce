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
from stack.ground import files
from stack.ground.errors import Refused, StackError
from stack.ground.tables import print_columns
from stack.ground.talk import confirm, give, human, say
from stack.server.admin import Cluster
from stack.verbs import convex_tables, exchange, spares
from stack.verbs.drop import BACK, clear_out, doom, keep_snapshot_back, kept_back, what_goes
from stack.verbs.forks import beside
from stack.verbs.halves import Copied, Halves, copier, same_moment
from stack.verbs.login import administrator
from stack.verbs.names import remember
from stack.verbs.restore import what
from stack.verbs.spares import refuse_prepared, take_over, tell_and_tidy
from stack.verbs.store import (
    Snapshot,
    convex_of,
    every_one,
    find_one,
    free_name,
    of_database,
    option,
    typed,
    unwanted_copies,
)

LONGEST = 200
"""Characters in the name of a snapshot: more than a person reads in a table."""


def take(
    engine: Engine, name: str = "", *, message: str = "", overwrite: bool = False, only: str = "", database: str = ""
) -> str:
    """Copy the database, and Convex's directory, into a snapshot, and return its name; without one the clock gives it.

    A fork that `database` names is copied alone.

    Ends the sessions on the database; new ones wait until the copy is made, and Convex stands still meanwhile. Raises
    Refused when the name is taken (unless `overwrite`) or cannot be one, StackError when there is no room or a copy
    fails.
    """
    name = _checked(name) if name else ""
    if not message.isprintable():
        raise Refused("A message is one line of printable characters. Nothing was done.")
    fork = beside(engine, database)
    only = what(engine, only, ("", "both", "pg"), fork)
    with copier(engine, wanted=only == "both") as copied, exchange.at_work(engine, fork) as cluster:
        there = of_database(cluster)
        name = name or free_name(there)
        old = [each for each in there if each.name == name]
        if old and not overwrite:
            raise Refused(
                f"There is a snapshot {name!r} already, so nothing was done. Choose another name, or add --replace."
            )
        if cluster.oid(cluster.database) is None:
            raise StackError(f"There is no database {cluster.database!r} to take a snapshot of. Type `invoke doctor`.")
        for its in (cluster.database, *(each.stored for each in old)):
            refuse_prepared(cluster, its)
        take_over(cluster)
        own = convex_tables.home(engine) if copied.half else ""
        spares.make_room(engine, cluster, sum(map(cluster.size, filter(cluster.oid, (cluster.database, own)))))
        with same_moment(engine, cluster, copied):
            copied.tables = convex_tables.copy(engine, cluster, own) if own else ""
            made = spares.copy_database(engine, cluster)
        new = _become_snapshot(engine, cluster, (made, copied), old, (name, message))
        tell_and_tidy(engine, cluster)
        told = _told(new, copied, option(cluster))
    spares.go_on_in_background(engine)
    say(told)
    return name


def _become_snapshot(
    engine: Engine, cluster: Cluster, made: tuple[str, Copied], old: list[Snapshot], told: tuple[str, str]
) -> Snapshot:
    """Let the copies be a snapshot with a name and a message, in the place of those that had the name."""
    (database, copied), (name, message) = made, told
    size = cluster.size(database)
    comment, limit, template = cluster.marks(cluster.database)
    now = time.time()
    new = Snapshot(
        uuid.uuid4().hex, size, "none", name, cluster.database, now, now, cluster.version, message, comment, limit,
        template, convex=copied.image, convex_built=copied.built, convex_size=copied.size,
    )  # fmt: skip
    if copied.tables:
        more = cluster.size(copied.tables)
        new = replace(new, convex_in=convex_tables.home(engine), convex_size=copied.size + more)
    if copied.half:  # until the database has its name it is nobody's
        there = Halves(engine, cluster)
        copied.half.rename(there.of(new.stored))
        files.sync_directory(there.data)
    return become(cluster, database, new, old, copied.tables)


def become(cluster: Cluster, database: str, new: Snapshot, old: list[Snapshot], tables: str = "") -> Snapshot:
    """Let a copy be a new snapshot, with that of Convex's `tables`, in the place of old ones; return it so."""
    for each in old:
        clear_out(cluster, each)
    with cluster.transaction():
        turn = cluster.transaction_id()
        new = replace(new, turn=turn, used_turn=turn)
        for each in old:
            doom(cluster, each)
        cluster.rename(database, new.stored)
        cluster.set_comment(new.stored, new.facts())
        if tables:
            cluster.rename(tables, convex_of(new.stored))
    return new


def _told(new: Snapshot, copied: Copied, its: str) -> str:
    what, parts = f"Took the snapshot {new.name} of {new.database} ({human(new.size)})", "it"
    if copied.still:
        what, parts = f"{what} and Convex ({human(new.convex_size)})", "both"
    return f"{what}{copied.stood}. `invoke restore {typed(new.name)}{its}` brings {parts} back."


def drop(engine: Engine, name: str, *, yes: bool, database: str = "") -> None:
    """Delete a snapshot, of a fork when `database` names one, after asking; `undo` brings it back.

    Raises Refused when there is none of that name, or the user says no.
    """
    if not name:
        raise Refused("Which snapshot? Type `invoke drop-snapshot NAME`; `invoke snapshots` lists them.")
    with exchange.at_work(engine, beside(engine, database), gone=True) as cluster:
        snapshot = find_one(cluster, name)
        parts = human(snapshot.size) + f" and {human(snapshot.convex_size)} of Convex" * bool(snapshot.convex)
        what = f"{snapshot.name} ({parts}, taken {snapshot.moment})"
        refuse_prepared(cluster, snapshot.stored)
        for line, _ in what_goes(cluster, snapshot.stored):
            say(f"With it goes {line}.")
        confirm(f"Delete the snapshot {what}?", yes=yes)
        take_over(cluster)
        clear_out(cluster, snapshot)
        with cluster.transaction():
            kept = keep_snapshot_back(cluster, snapshot)
        tell_and_tidy(engine, cluster)
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


def _checked(name: str) -> str:
    name = unicodedata.normalize("NFC", name)
    if not name.isprintable() or name != name.strip() or len(name) > LONGEST:
        raise Refused(
            f"A snapshot cannot have that name: at most {LONGEST} printable characters on one line, without white space"
            " at either end. Nothing was done."
        )
    return name


def print_list(engine: Engine, *, as_json: bool) -> None:
    """Print the snapshots of every database of the cluster, the newest first."""
    found = listed(engine)
    if as_json:
        give(json.dumps([_snapshot(each) for each in found], indent=2))
    elif found:
        both = any(each.convex for each in found)
        rows = [
            (each.name, each.age, human(each.size), *[_convex(each)] * both, each.spare, each.database, each.message)
            for each in found
        ]
        print_columns(("SNAPSHOT", "AGE", "SIZE", *["CONVEX"] * both, "SPARE", "DATABASE", "MESSAGE"), rows)
    else:
        say("There is no snapshot. `invoke snapshot` takes one.")


def _convex(each: Snapshot) -> str:
    """Return how big Convex's part is; one that a restore has replaced was not counted."""
    return "-" if not each.convex else human(each.convex_size) if each.convex_size else "yes"


def _snapshot(each: Snapshot) -> dict[str, Any]:
    return {
        "name": each.name,
        "taken": datetime.fromtimestamp(each.taken, timezone.utc).isoformat(timespec="seconds") if each.taken else None,
        "database": each.database,
        "bytes": each.size,
        "server_version": each.server_version,
        "message": each.message,
        "spare": each.spare,
        "convex": {"image": each.convex, "bytes": each.convex_size} if each.convex else None,
    }
