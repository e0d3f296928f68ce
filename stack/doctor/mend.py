"""What --fix does to a database: through the socket, on which the server trusts who is beside it."""

from __future__ import annotations

import json
from typing import Any

from stack.engines.base import Engine
from stack.ground.catalog import POSTGRES
from stack.ground.errors import StackError
from stack.ground.talk import say
from stack.server import identity
from stack.server.address import Endpoint
from stack.verbs.people import tell


def inside(chosen: Engine, endpoint: Endpoint) -> dict[str, Any] | None:
    """Return who may log in, which databases there are, and a superuser; None when no superuser is known."""
    query = """SELECT json_build_object('superuser', current_user,
        'users', (SELECT json_agg(rolname ORDER BY rolname) FROM pg_roles WHERE rolcanlogin),
        'databases', (SELECT json_agg(datname ORDER BY datname) FROM pg_database
                      WHERE datallowconn AND NOT datistemplate))
        FROM pg_roles WHERE rolname = current_user AND rolsuper;"""
    for user in dict.fromkeys((endpoint.user, POSTGRES.name)):
        try:
            told = tell(chosen, user, query)
        except StackError:
            continue
        if told:
            known: dict[str, Any] = json.loads(told)
            return known
    return None


def lets_in(chosen: Engine, endpoint: Endpoint, known: dict[str, Any]) -> bool:
    """Return whether our own server has the user, the database and the password of `endpoint`."""
    from psycopg import sql

    query = sql.SQL(
        "SELECT rolpassword FROM pg_authid WHERE rolname = {} AND now() < coalesce(rolvaliduntil, 'infinity');"
    ).format(sql.Literal(endpoint.user))
    verifier = tell(chosen, known["superuser"], query.as_string(None))
    return endpoint.database in known["databases"] and identity.is_password(verifier, endpoint.password)


def set_password(chosen: Engine, endpoint: Endpoint, superuser: str) -> None:
    """Give the role of `endpoint` its password; only a SCRAM verifier leaves this process, and no log keeps it."""
    from psycopg import pq, sql

    never = pq.PGconn.connect_start(b"host=/nonexistent")  # an object to ask, not a connection
    verifier = never.encrypt_password(endpoint.password.encode(), endpoint.user.encode(), b"scram-sha-256").decode()
    role = sql.Identifier(endpoint.user).as_string(None)
    quiet = "SET log_statement = none; SET log_min_duration_statement = -1; SET log_min_error_statement = panic;"
    # One that has expired is refused with the same words as a wrong one.
    tell(chosen, superuser, f"{quiet} ALTER ROLE {role} PASSWORD '{verifier}' VALID UNTIL 'infinity';")
    say(f"The password of {endpoint.user} is now that of the settings.")


def create_database(chosen: Engine, endpoint: Endpoint, superuser: str) -> None:
    """Create the empty database of `endpoint`, owned by its user."""
    from psycopg import sql

    names = (sql.Identifier(name).as_string(None) for name in (endpoint.database, endpoint.user))
    tell(chosen, superuser, "CREATE DATABASE {} OWNER {};".format(*names))
    say(f"The database {endpoint.database} was created; it is empty.")


def open_database(chosen: Engine, endpoint: Endpoint) -> None:
    """Let sessions into the database of `endpoint` again."""
    from psycopg import sql

    superuser = (inside(chosen, endpoint) or {}).get("superuser", endpoint.user)
    name = sql.Identifier(endpoint.database).as_string(None)
    tell(chosen, superuser, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true;")
    say(f"The database {endpoint.database} lets sessions in again.")
