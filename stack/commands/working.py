"""Work with it."""

from __future__ import annotations

from invoke.context import Context
from invoke.tasks import task

from stack.commands import FORK, ROOT, invoke_bent


@task(
    iterable=["command"],
    help={
        "command": "SQL to run; may be given more than once.",
        "file": "A file of SQL to run; - is stdin.",
        "database": "Another database of the server, such as a fork.",
    },
)
def psql(c: Context, command: list[str], file: str = "", database: str = "") -> None:
    """Open psql in the database, or run SQL from -c, -f or stdin, ending at the first error; -- OPTIONS are psql's."""
    from stack.engines import choose
    from stack.verbs import psql

    words = [*["-d", database] * bool(database), *invoke_bent.words_after()]
    psql.psql(choose.choose(ROOT), command, file, words)


@task(
    help={
        "format": "dotenv, shell or json (default: dotenv).",
        "write": "An application's file, such as ../app/.env.local, in which they get their values; the rest of it"
        " stays as it is.",
        "key": "With an admin key of Convex (the default).",
        **FORK,
    }
)
def env(c: Context, format: str = "dotenv", write: str | None = None, key: bool = True, database: str = "") -> None:
    """Print connection settings for other programs, password and admin key included, or write them to a file."""
    from stack.engines import choose
    from stack.ground.talk import give
    from stack.verbs import env

    chosen = choose.choose(ROOT)
    if write is None:
        give(env.env(chosen, format, key=key, database=database))
    else:
        env.write(chosen, write, format, key=key, database=database)


@task
def dashboard(c: Context) -> None:
    """Open the Convex dashboard in the browser."""
    from stack.engines import choose
    from stack.verbs import env

    env.open_dashboard(choose.choose(ROOT))


@task
def admin_key(c: Context) -> None:
    """Print a new admin key of the Convex backend."""
    from stack.engines import choose
    from stack.engines.base import need
    from stack.ground.talk import give

    chosen = choose.choose(ROOT)
    give(need(chosen.convex, chosen).key())
