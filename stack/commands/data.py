"""Data."""

from __future__ import annotations

from invoke.context import Context
from invoke.tasks import task

from stack.commands import FORK, ROOT, YES


@task(help={"yes": "Do not ask, though a replication slot or a subscription that is in use does not come along."})
def seed(c: Context, yes: bool = False) -> None:
    """Apply the files of seed/ in name order, all of them or none; sessions on the database are told and ended."""
    from stack.engines import choose
    from stack.verbs import load

    with choose.changing(ROOT) as chosen:
        load.seed(chosen, yes=yes)


@task(
    help={
        "cache": "Bring back what was kept of the last time, if nothing has changed in seed/ (the default).",
        "yes": "Do not ask, though a replication slot or a subscription that is in use does not come along.",
    }
)
def fresh(c: Context, cache: bool = True, yes: bool = False) -> None:
    """Replace the database by what seed/ makes of an empty one, at once after the first time; `undo` takes it back."""
    from stack.engines import choose
    from stack.verbs import fresh

    with choose.changing(ROOT) as chosen:
        fresh.fresh(chosen, cache=cache, yes=yes)


@task(
    help={
        "file": "Where to: SQL for .sql, .sql.gz and .sql.zst, both stores for .stack, else an archive; - is stdout"
        " (default: a dated archive in backups/, or stdout where that is a file or a pipe).",
        "all": "Both stores in one file, at one moment: the database and Convex.",
        **FORK,
    }
)
def dump(c: Context, file: str = "", all: bool = False, database: str = "") -> None:
    """Write the whole database, or with --all Convex too, to a file that any engine can load."""
    from stack.engines import choose
    from stack.sql import formats
    from stack.verbs import dump_all

    dump_all.dump(choose.choose(ROOT), file or formats.redirected(), everything=all, of=database)


@task(
    help={
        "file": "A dump, SQL, or a file with both stores, compressed or not; - is stdin.",
        "clean": "Replace what is in the database, and Convex by that of the file; `invoke undo` brings it back.",
        "encoding": "What SQL is in that does not say it, such as LATIN1 (default: the database's, UTF-8).",
        "database": "Which database's content to load, of a file with several, as pg_dumpall makes.",
        "trust": "Let it run programs and write files on this machine, as psql would.",
        **YES,
    }
)
def load(
    c: Context,
    file: str = "",
    clean: bool = False,
    yes: bool = False,
    encoding: str = "",
    database: str = "",
    trust: bool = False,
) -> None:
    """Bring a dump or a file of SQL into the database, or a file with both stores into both, all or nothing."""
    from stack.engines import choose
    from stack.verbs import load

    with choose.changing(ROOT) as chosen:
        load.load(chosen, file, clean=clean, yes=yes, encoding=encoding, database=database, trust=trust)


@task(help={"dry-run": "Only show what would go.", **YES})
def reset(c: Context, yes: bool = False, dry_run: bool = False) -> None:
    """Start over: stop everything, DELETE ALL DATA, start, seed."""
    from stack.engines import choose
    from stack.verbs import reset

    with choose.changing(ROOT) as chosen:
        reset.reset(chosen, yes=yes, dry_run=dry_run)


@task(
    help={
        "service": "Only this one's data: pg or convex (default: both).",
        "dry-run": "Only show what would go.",
        **YES,
    }
)
def reset_data(c: Context, service: str = "", yes: bool = False, dry_run: bool = False) -> None:
    """Stop everything and DELETE THE DATA of the database, of Convex, or of both."""
    from stack.engines import choose
    from stack.verbs import wipe

    with choose.changing(ROOT) as chosen:
        wipe.ask_and_wipe(chosen, service, yes=yes, dry_run=dry_run)
