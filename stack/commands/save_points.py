"""Save points."""

from __future__ import annotations

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from stack.commands import FORK, ROOT, YES, invoke_bent


@task(
    help={
        "name": "What to call it (default: the date and time).",
        "message": "What it is for; `invoke snapshots` shows it.",
        "replace": "Take the place of a snapshot of that name.",
        "only": "pg, the database alone, or both (default: STACK_SNAPSHOT, both).",
        **FORK,
    }
)
def snapshot(
    c: Context, name: str = "", message: str = "", replace: bool = False, only: str = "", database: str = ""
) -> None:
    """Save the database and Convex as they are now, for `restore`; sessions on the database are told and ended."""
    from stack.engines import choose
    from stack.verbs import snapshots

    with choose.changing(ROOT) as chosen:
        snapshots.take(chosen, name, message=message, overwrite=replace, only=only, database=database)


@task(
    help={
        "name": "Which snapshot (default: the one taken last).",
        "only": "pg or convex, one of the two, or both (default: STACK_SNAPSHOT, both).",
        "keep": "Keep what is replaced, as a snapshot of its own.",
        "yes": "Do not ask, though a replication slot or a subscription that is in use does not come along.",
        **FORK,
    }
)
def restore(
    c: Context, name: str = "", only: str = "", keep: bool = False, yes: bool = False, database: str = ""
) -> None:
    """Put a snapshot in the place of what is there now, which `undo` brings back, until the next such step."""
    from stack.engines import choose
    from stack.verbs import restore

    with choose.changing(ROOT) as chosen:
        restore.restore(chosen, name, only=only, keep=keep, yes=yes, database=database)


@task(help={"yes": "Do not ask, though a replication slot or a subscription that is in use does not come along."})
def undo(c: Context, yes: bool = False) -> None:
    """Bring back what the last load, seed, fresh, restore or drop-snapshot replaced; typed again it undoes itself."""
    from stack.engines import choose
    from stack.verbs import undo

    with choose.changing(ROOT) as chosen:
        undo.undo(chosen, yes=yes)


@task(help={"json": "Print JSON."})
def snapshots(c: Context, json: bool = False) -> None:
    """List the snapshots, the newest first."""
    from stack.engines import choose
    from stack.verbs import snapshots

    snapshots.print_list(choose.choose(ROOT), as_json=json)


@task(
    help={
        "name": "Which snapshot (default: the one taken last).",
        "data": "Count the rows of each table too.",
        "json": "Print JSON.",
    }
)
def diff(c: Context, name: str = "", data: bool = False, json: bool = False) -> None:
    """Show what has changed since a snapshot, as a unified diff of the schema; exit code 0 when nothing has, else 1."""
    from stack.engines import choose
    from stack.verbs import diff

    if diff.diff(choose.choose(ROOT), name, data=data, as_json=json):
        raise Exit(code=1)


@task
def guard(c: Context) -> None:
    """Take a snapshot, then run what follows -- with `env`'s settings; its exit code is passed on."""
    from stack.engines import choose
    from stack.verbs import guard

    if code := guard.guard(choose.changing(ROOT), invoke_bent.words_after()):
        raise Exit(code=code)


@task(help={"name": "Which snapshot.", "database": "The fork that it is of.", **YES})
def drop_snapshot(c: Context, name: str = "", yes: bool = False, database: str = "") -> None:
    """DELETE A SNAPSHOT; the database is not touched, and `undo` brings the snapshot back, until the next such step."""
    from stack.engines import choose
    from stack.verbs import snapshots

    with choose.changing(ROOT) as chosen:
        snapshots.drop(chosen, name, yes=yes, database=database)
