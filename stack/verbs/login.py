"""Whether a login works, and what its failure says."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module

from stack.engines.base import Engine, need
from stack.ground.errors import StackError
from stack.ground.threads import begin, meanwhile
from stack.server import waits
from stack.server.address import Endpoint, Running
from stack.server.admin import PATIENCE, Cluster
from stack.server.identity import Stranger, prove
from stack.server.session import LoginFailed, connect
from stack.verbs.causes import refusal, told

LATE = (
    "A login takes that long when the machine is overloaded, and while somebody has locked pg_database, as LOCK TABLE"
    " and VACUUM FULL do. Let that end, or type `invoke restart postgres`, which ends every session; then type the"
    " command again."
)
"""What to say of a login that did not come to its end."""

STANDBY = " (a standby, which can only be read)"


def login(endpoint: Endpoint, engine: Engine) -> str:
    """Log in as the user would, and return the server's version, with `STANDBY` behind that of one.

    Raises LoginFailed, and Stranger when it is another server than the engine's that has let us in.
    """
    import psycopg

    inside = engine.inside
    quick = meanwhile(inside.identifier) if inside else None
    with connect(endpoint) as connection:
        try:
            connection.execute("SELECT 1")
            if inside and quick:
                prove(connection, quick, partial(inside.identifier, surely=True))
        except psycopg.OperationalError as error:
            raise LoginFailed(str(error).strip()) from None
        except Stranger:
            raise
        except StackError:
            pass  # nobody can tell: enough to look at it, not to change it
        told = connection.info.parameter_status
        return (told("server_version") or "unknown") + STANDBY * (told("in_hot_standby") == "on")


def telling(said: str) -> str:
    """Return the line that tells most of a login that failed: libpq tries every address that a name has.

    What a server says goes before a network that does not answer, and what may pass before what will not.
    """
    lines = re.findall(r"connection to server .* failed: .*", said) or said.splitlines()[-1:] or [""]
    return min(lines, key=lambda line: ("Connection refused" in line, "FATAL" not in line, refusal(line) is not None))


def judged(said: str) -> str:
    """Return what to judge a login that failed by: all of it, or where several addresses were tried, the line above."""
    return telling(said) if said.count("connection to server") > 1 else said


@contextmanager
def administrator(engine: Engine, name: str) -> Iterator[Cluster]:
    """Log in under a name. What is under way in the server is cancelled when this is left by an error.

    Raises StackError when the server does not run, does not let us in, or refuses what it is asked to do; and before
    it is asked for anything when it is not the one that the engine runs.
    """
    # 60 ms, while Docker is asked where the server is
    importing = begin(lambda: import_module("psycopg"))
    server = need(engine.inside, engine)
    try:
        running = server.running()
    except BaseException:
        importing.join()  # Python crashes when it ends while a thread imports a library
        raise
    inside = meanwhile(lambda: server.identifier(running.id))
    importing.join()
    import psycopg

    logging.getLogger("psycopg").addHandler(logging.NullHandler())  # that a rollback fails on Ctrl-C is no news
    try:
        cluster = _cluster(engine, running, name)
    except LoginFailed as error:
        raise StackError(f"The database does not let us in:\n{_why_not_in(engine, str(error))}") from None
    with cluster.connection:
        try:
            prove(cluster.connection, inside, lambda: server.identifier(running.id, surely=True))
            with waits.watched(cluster.beside, pid=cluster.connection.info.backend_pid):
                yield cluster
        except psycopg.Error as error:
            raise StackError(
                f"PostgreSQL refused: {str(error).strip()}\nThe database is as it was. Type `invoke status`, or `invoke"
                " logs postgres` for more."
            ) from None
        except BaseException:
            with suppress(psycopg.Error):
                cluster.connection.cancel_safe(timeout=PATIENCE)
            raise


def _why_not_in(engine: Engine, said: str) -> str:
    if "password authentication failed" in said:  # it may be another server that answers; doctor tells them apart
        return f"{said}\n`invoke doctor` finds out why."
    return told(engine, said, *[LATE] * ("timeout expired" in said))


def _cluster(engine: Engine, running: Running, name: str) -> Cluster:
    try:
        return Cluster(running, name)
    except LoginFailed:
        # The password may have been changed since the container was made; what is configured now takes longer to ask.
        endpoint = engine.endpoint()
        if not endpoint or endpoint == running.endpoint:
            raise
        return Cluster(running._replace(endpoint=endpoint), name)
