"""What has changed since a snapshot: the schema, and how many rows there are."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from stack.engines.base import Engine, need
from stack.ground.errors import StackError
from stack.ground.run import Command, look
from stack.ground.tables import print_columns
from stack.ground.talk import counted, give, say
from stack.ground.threads import meanwhile
from stack.server.admin import Cluster
from stack.server.session import LoginFailed
from stack.server.waits import watched
from stack.verbs.login import administrator
from stack.verbs.store import Snapshot, find_one, typed
from stack.verbs.visit import opened, undisturbed

if TYPE_CHECKING:
    from psycopg import Connection
    from typing_extensions import LiteralString

OURS = "invoke"
"""What our session is called that counts rows."""
SOME = "stack-some-snapshot"
"""What stands for the name of the snapshot's database in a command line."""
LONGEST = 3600.0
"""Seconds that pg_dump may take: it waits for whoever has locked a table, and is told of meanwhile."""
Counts = dict[str, int]
"""The number of rows by table."""
_KEY = re.compile(r"\\restrict (\S+)")
"""The key that pg_dump makes up each time."""
_OBJECT = re.compile(r"-- Name: (.*); Type: (.*); Schema: (.*); Owner:")
# Those of a partitioned table are in its partitions, those that inherit have their own.
_TABLES: LiteralString = """
SELECT nspname, relname, quote_ident(nspname) || '.' || quote_ident(relname)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
WHERE relkind = 'r' AND relpersistence <> 't' AND nspname !~ '^pg_' AND nspname <> 'information_schema'
ORDER BY nspname, relname"""


def diff(engine: Engine, name: str = "", *, data: bool, as_json: bool) -> bool:
    """Print what has changed since a snapshot, the newest without a name, and return whether anything has.

    With `data` the rows of each table are counted too. Raises StackError when one of the two cannot be read.
    """
    need(engine.inside, engine)
    program = f"stack-diff-{secrets.token_hex(8)}"
    # What is there now is asked while this logs in, which takes as long.
    commands = meanwhile(lambda: _pg_dumps(engine, program))
    after = meanwhile(lambda: _schema(engine, commands()[0], "The database"))
    with administrator(engine, OURS) as cluster, undisturbed(cluster):
        snapshot = find_one(cluster, name)
        inside = [program, *[OURS] * data]
        with _ended(cluster, program), opened(cluster, snapshot.stored, inside):
            argv, env = commands()[1]
            command = Command([word.replace(SOME, snapshot.stored) for word in argv], env)
            before = meanwhile(lambda: _schema(engine, command, f"The snapshot {snapshot.name}"))
            rows = _counted(cluster, snapshot) if data else None
            changes = list(_changes(before(), after(), snapshot, cluster.database))
    if as_json:
        give(json.dumps(_facts(snapshot, changes, rows), indent=2))
    else:
        _show(snapshot, changes, rows)
    return bool(changes) or bool(rows and rows[0] != rows[1])


def _pg_dumps(engine: Engine, program: str) -> tuple[Command, Command]:
    """Return what prints the schema of now, and that of SOME snapshot: it takes longer than to find out which."""
    words = ("pg_dump", "--schema-only", "--encoding=UTF8")
    return engine.client(*words, name=program), engine.client(*words, name=program, into={"dbname": SOME})


@contextmanager
def _ended(cluster: Cluster, program: str) -> Iterator[None]:
    """Tell on whom our client programs wait, and end them in the server when this fails or is interrupted."""
    import psycopg

    try:
        with watched(cluster.beside, program=program):
            yield
    except BaseException:
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
        with suppress(psycopg.Error, LoginFailed), cluster.beside() as second:
            second.execute(end, [program])
        raise


def _schema(engine: Engine, command: Command, what: str) -> list[str]:
    """Return the lines of a schema, without the key that is another each time. Raises StackError."""
    told = look(*command, timeout=LONGEST)
    if told.returncode:
        from stack.verbs.causes import known

        why = told.stderr.strip() or f"exit code {told.returncode}"
        raise StackError(f"{what} cannot be compared: pg_dump failed. It said:\n{known(engine, why)}")
    lines = told.stdout.split("\n")
    keys = [found[1] for line in lines if (found := _KEY.fullmatch(line))][:1]
    without = {f"\\{word} {key}" for key in keys for word in ("restrict", "unrestrict")}
    return [line for line in lines if line not in without]


def _counted(cluster: Cluster, snapshot: Snapshot) -> tuple[Counts, Counts]:
    """Return the rows of each table in a snapshot and now. Raises StackError."""
    with cluster.within(snapshot.stored) as before, cluster.within(cluster.database) as after:
        return _count(before), _count(after)


def _count(connection: Connection[Any]) -> Counts:
    from psycopg import sql

    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    found = {}
    for schema, table, title in connection.execute(_TABLES).fetchall():
        query = sql.SQL("SELECT count(*) FROM ONLY {}").format(sql.Identifier(schema, table))
        ((found[title],),) = connection.execute(query)
    return found


def _changes(before: Sequence[str], after: Sequence[str], snapshot: Snapshot, database: str) -> Iterator[str]:
    """Yield the lines of a unified diff; each piece is headed by the object in which it begins, as git does."""
    if before == after:
        return
    from difflib import unified_diff

    names = (f"snapshot {snapshot.name}", f"{database} now")
    for line in unified_diff(before, after, *names, fromfiledate=snapshot.moment, lineterm=""):
        if piece := re.match(r"@@ -(\d+)", line):
            above = (found for each in reversed(before[: int(piece[1]) - 1]) if (found := _OBJECT.match(each)))
            inside = next(above, None)
            yield f"{line} {inside[2]} {inside[3]}.{inside[1]}" if inside else line
        else:
            yield line


def _facts(snapshot: Snapshot, changes: Sequence[str], rows: tuple[Counts, Counts] | None) -> dict[str, Any]:
    taken = datetime.fromtimestamp(snapshot.taken, timezone.utc).isoformat(timespec="seconds")
    return {
        "snapshot": snapshot.name,
        "taken": taken if snapshot.taken else None,
        "equal": not changes and (not rows or rows[0] == rows[1]),
        "schema": "\n".join(changes),
        "tables": [{"table": each, "before": was, "after": now} for each, was, now in _both(rows)] if rows else None,
    }


def _both(rows: tuple[Counts, Counts]) -> list[tuple[str, int | None, int | None]]:
    return [(each, rows[0].get(each), rows[1].get(each)) for each in sorted(rows[0].keys() | rows[1].keys())]


def _show(snapshot: Snapshot, changes: Sequence[str], rows: tuple[Counts, Counts] | None) -> None:
    if changes:
        give("\n".join(changes))
    every = _both(rows) if rows else []
    if other := [(each, *("" if n is None else str(n) for n in both)) for each, *both in every if both[0] != both[1]]:
        print_columns(("TABLE", "BEFORE", "AFTER"), other)
    since = f"the snapshot {snapshot.name}, taken {snapshot.moment}"
    if changes or other:
        say(f"That has changed since {since}. `invoke restore {typed(snapshot.name)}` brings it back.")
    else:
        say(f"The schema is that of {since}.")
    if rows and (same := len(every) - len(other)):
        say(f"{counted(same, 'table')} {'has' if same == 1 else 'have'} as many rows as before.")
