"""More databases."""

from __future__ import annotations

from invoke.context import Context
from invoke.tasks import task

from stack.commands import ROOT, YES


@task(
    help={
        "name": "What to call it (default: the database's name, `_fork_` and a number).",
        "from": "Copy this snapshot (default: the database as it is now, whose sessions are told and ended).",
        "ttl": "How long it is wanted, as in 90m or 1d12h; then it ends by itself (default: it stays).",
        "json": "Print JSON.",
    }
)
def fork(c: Context, name: str = "", from_: str = "", ttl: str = "", json: bool = False) -> None:
    """Make one more database, a copy of yours or of a snapshot, and print its address."""
    from stack.engines import choose
    from stack.verbs import fork

    with choose.changing(ROOT) as chosen:
        fork.fork(chosen, name, source=from_, ttl=ttl, as_json=json)


@task(help={"json": "Print JSON."})
def forks(c: Context, json: bool = False) -> None:
    """List the forks, the newest first."""
    from stack.engines import choose
    from stack.verbs import fork

    fork.print_list(choose.choose(ROOT), as_json=json)


@task(help={"name": "Which fork.", **YES})
def drop_fork(c: Context, name: str = "", yes: bool = False) -> None:
    """DELETE A FORK with all that is in it, and its snapshots; the database and those of it are not touched."""
    from stack.engines import choose
    from stack.verbs import fork

    with choose.changing(ROOT) as chosen:
        fork.end(chosen, name, yes=yes)


@task(
    help={
        "name": "Of which snapshot (default: only show the pool that is there).",
        "size": "How many copies there are at most, ready and taken (default: 16).",
        "json": "Print JSON, without a name.",
    }
)
def pool(c: Context, name: str = "", size: str = "", json: bool = False) -> None:
    """Keep copies of a snapshot ready for tests: `SELECT stack.take()` in the database postgres hands one out."""
    from stack.engines import choose
    from stack.verbs import pool

    if name or size:
        with choose.changing(ROOT) as chosen:
            pool.make(chosen, name, pool.wanted(size))
    else:
        pool.print_it(choose.choose(ROOT), as_json=json)


@task
def drop_pool(c: Context) -> None:
    """End the pool; copies that are taken go with the sessions that took them."""
    from stack.engines import choose
    from stack.verbs import pool

    with choose.changing(ROOT) as chosen:
        pool.end(chosen)
