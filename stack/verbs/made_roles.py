"""The roles that a file brings along: marked as made for a database that is being filled, and gone when that fails."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from contextlib import suppress

from stack.ground.talk import say
from stack.server.admin import Cluster
from stack.verbs.facts import read_json

ROLE = '{"stack": 2, "made for": "'
"""How the comment begins on a role that was made for a database that is being filled; its name follows."""
PATIENCE = "1s"
"""How long a role of the same name that another session is making is waited for: it may be what reads our script."""
_MADE_FOR = (
    "SELECT rolname, shobj_description(oid, 'pg_authid') FROM pg_roles"
    " WHERE starts_with(shobj_description(oid, 'pg_authid'), %s)"
)


def mark(database: str) -> str:
    """Return SQL that marks the roles which its own transaction has made, on one line.

    A row that is seen before its transaction has ended is of the same transaction, and a row that was not updated in it
    was inserted: so nobody else's role is ever marked. Where that cannot be shown, none is. What the user may not do,
    or another has said of a role, is no failure of the file.
    """
    return " ".join(f"""
        DO $stack$ DECLARE each record; us bigint := pg_current_xact_id_if_assigned()::text::bigint;
        BEGIN IF pg_stat_get_xact_tuples_updated('pg_authid'::regclass) = 0 THEN
            FOR each IN SELECT rolname, shobj_description(oid, 'pg_authid') AS said FROM pg_authid
                WHERE xmin::text::bigint >= us & 4294967295
                  AND pg_xact_status(((us >> 32 << 32) + xmin::text::bigint)::text::xid8) = 'in progress'
            LOOP EXECUTE format('COMMENT ON ROLE %I IS %L', each.rolname,
                '{ROLE}{database}"' || coalesce(', "said": ' || to_json(each.said), '') || '}}'); END LOOP;
        END IF; EXCEPTION WHEN OTHERS THEN NULL; END $stack$;
    """.split())  # noqa: S608 - both are ours  # fmt: skip


def make(cluster: Cluster, role: str, database: str) -> bool:
    """Make a role that a file names and the server has not, without login; return whether that was done."""
    import psycopg

    if cluster.rows("SELECT FROM pg_roles WHERE rolname = %s", role):
        return False
    try:
        with cluster.transaction():
            cluster.rows("SELECT set_config('lock_timeout', %s, true)", PATIENCE)
            cluster.run("CREATE ROLE {} NOLOGIN", role)
            _comment(cluster, role, f'{ROLE}{database}"}}')
    except psycopg.errors.LockNotAvailable:
        return False
    return True


def made_for(cluster: Cluster, database: str) -> bool:
    """Whether any role was made for a database, and goes with it."""
    return bool(cluster.rows(_MADE_FOR, f'{ROLE}{database}"'))


def keep(cluster: Cluster, database: str) -> None:
    """Let the roles that were made for a database stay, each with what the file has said of it."""
    for role, comment in cluster.rows(_MADE_FOR, f'{ROLE}{database}"'):
        said = read_json(comment).get("said")
        _comment(cluster, role, said if isinstance(said, str) else None)


def drop(cluster: Cluster) -> None:
    """Drop the roles that were made for databases that are no more. One that is in use by now stays."""
    import psycopg

    there = [f'{ROLE}{name}"' for (name,) in cluster.rows("SELECT datname FROM pg_database")]
    for role, comment in cluster.rows(_MADE_FOR, ROLE):
        if not comment.startswith(tuple(there)):
            with suppress(psycopg.errors.DependentObjectsStillExist, psycopg.errors.UndefinedObject):
                cluster.run("DROP ROLE {}", role)


def there(cluster: Cluster) -> set[int]:
    """Return the numbers of all roles."""
    return {oid for (oid,) in cluster.rows("SELECT oid FROM pg_roles")}


def tell_left(cluster: Cluster, before: set[int]) -> None:
    """Name the roles that came since then and are still here: whose they are is not known, so they are not dropped."""
    left = cluster.rows("SELECT rolname FROM pg_roles WHERE NOT oid = ANY (%s) ORDER BY 1", list(before))
    if names := [row[0] for row in left]:
        is_, them = ("The role {} is", "it is") if len(names) == 1 else ("The roles {} are", "they are")
        say(
            f"{is_.format(', '.join(names))} new since the file was begun, and here still: somebody else may have made"
            f" what the file did not. If {them} the file's, type {_typed(f'DROP ROLE {_list(names)}')}."
        )


def tell_shut_out(cluster: Cluster, made: list[str]) -> None:
    """Say which of some roles cannot log in, and how to let them."""
    rows = cluster.rows("SELECT rolname FROM pg_roles WHERE rolname = ANY (%s) AND NOT rolcanlogin", made)
    if not (shut_out := [row[0] for row in rows]):  # others the file itself lets in
        return
    what = "The role {} was made, which it names and which was not here; it" if len(shut_out) == 1 else (
        "The roles {} were made, which it names and which were not here; they"
    )  # fmt: skip
    login = _typed(f"ALTER ROLE {_list(shut_out[:1])} LOGIN")
    say(f"{what.format(', '.join(shut_out))} cannot log in. To let one, type {login}.")


def _typed(statement: str) -> str:
    return f"`invoke psql -c {shlex.quote(statement)}`"


def _list(names: Iterable[str]) -> str:
    return ", ".join('"' + name.replace('"', '""') + '"' for name in names)


def _comment(cluster: Cluster, role: str, text: str | None) -> None:
    from psycopg import sql

    statement = sql.SQL("COMMENT ON ROLE {} IS {}").format(sql.Identifier(role), sql.Literal(text))
    cluster.connection.execute(statement)
