"""What commands that died have left in the server, and what only looks so: for `doctor`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from stack.engines.base import Engine
from stack.ground.talk import human
from stack.server import waits
from stack.server.admin import Cluster
from stack.verbs.login import administrator
from stack.verbs.store import AT_WORK, Stored, all_stored, unwanted_copies


@dataclass(frozen=True)
class Left:
    """A copy that is in the way, with what is known of it."""

    what: str
    cure: str
    ours: bool


def left(engine: Engine) -> list[Left]:
    """Return the copies that nobody wants and those that only look like ours; none while a command is at work."""
    with administrator(engine, "invoke") as cluster:
        if cluster.rows(f"SELECT {AT_WORK}"):
            return []
        found = [_left(cluster, each) for each in unwanted_copies(cluster)]
        for each in all_stored(cluster):
            if not each.ours:
                found.append(_not_ours(each))
        return found


def _left(cluster: Cluster, copy: Stored) -> Left:
    oid = cluster.oid(copy.name)
    cures = [each.end for each in waits.sessions_in(cluster.connection, oid)]
    if prepared := waits.prepared_in(cluster.connection, oid):
        cures.append(f"""`invoke psql -c 'ALTER DATABASE "{copy.name}" ALLOW_CONNECTIONS true'`""")
        cures += [f"`printf '%s\\n' '\\c {copy.name}' {shlex.quote(each.rollback)} | invoke psql`" for each in prepared]
    why = f": {copy.reason}" if copy.reason else ""
    cures.append("`invoke doctor --fix`")
    return Left(f"{copy.name} ({human(copy.size)}){why}", f"Type {', then '.join(cures)}.", ours=True)


def _not_ours(database: Stored) -> Left:
    quoted = f'"{database.name}"'
    what = (
        f"The database {database.name} ({human(database.size)}) is called as our copies are and is not marked as one:"
        " it is yours, or an earlier version of the stack left it. Nothing here touches it."
    )
    renamed = f"`invoke psql -c 'ALTER DATABASE {quoted} RENAME TO another_name'`"
    return Left(what, f"To keep it and have it out of the way, type {renamed}.", ours=False)
