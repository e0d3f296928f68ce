"""The commands of the local stack: Convex and PostgreSQL 17. How each is done stands in `stack/`."""

from __future__ import annotations

import sys
from pathlib import Path

if sys.platform == "win32":
    sys.stderr.write(
        "The stack does not run on Windows itself, so nothing was done. Use it in WSL2, with the checkout in the file"
        " system there (~/…, not /mnt/c/…): https://learn.microsoft.com/windows/wsl/install\n"
    )
    raise SystemExit(2)
if sys.version_info < (3, 10):  # noqa: UP036 - who has an older one is told
    sys.stderr.write(
        f"The stack needs Python 3.10 or newer and this is {sys.version.split()[0]}, so nothing was done. With a newer"
        " one beside it type `python3.13 -m venv --clear .venv && . .venv/bin/activate && pip install -r"
        " requirements.txt`, then the command again.\n"
    )
    raise SystemExit(2)

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from stack import invoke_bent

invoke_bent.install()

ROOT = Path(__file__).resolve().parent
YES = {"yes": "Do not ask."}


@task(
    help={
        "layers": "Layers above the base, with commas between them (default: STACK_LAYERS, dev); '' is the base alone.",
        "timeout": "Seconds to wait until it is usable (default: 60).",
        "wait": "Wait until it is usable (the default).",
        "pull": "Fetch the images again first.",
    }
)
def up(c: Context, layers: str | None = None, timeout: int = 60, wait: bool = True, pull: bool = False) -> None:
    """Start everything and return when it is usable."""
    from stack.engines import choose
    from stack.ground import register
    from stack.ground.talk import say
    from stack.ground.threads import meanwhile
    from stack.verbs import env, stacks, up, wipe

    with choose.changing(ROOT, layers) as chosen:
        orphans = meanwhile(lambda: stacks.mention(ROOT))
        up.bring_up(chosen, timeout, pull=pull, wait=wait)
        wipe.tidy(chosen)
    register.note(ROOT)
    say(env.summary(chosen))
    if told := orphans():
        say(told)


@task
def down(c: Context) -> None:
    """Stop everything. The data stays."""
    from stack.engines import choose

    with choose.changing(ROOT) as chosen:
        chosen.stop()


@task(help={"service": "The one to restart (default: all).", "timeout": "Seconds to wait (default: 60)."})
def restart(c: Context, service: str = "", timeout: int = 60) -> None:
    """Restart one service, or all, and return when everything is usable."""
    from stack.engines import choose
    from stack.ground.talk import say
    from stack.verbs import keeper, wait

    with choose.changing(ROOT) as chosen:
        chosen.restart(service)
        wait.wait_usable(chosen, timeout)
        keeper.go_on(chosen)
    say("Everything is usable again.")


@task(help={"json": "Print JSON."})
def status(c: Context, json: bool = False) -> None:
    """Show what is running; exit code 0 when all is healthy, 3 when nothing runs, 1 otherwise."""
    from stack.engines import choose
    from stack.verbs import status

    if code := status.status(choose.choose(ROOT), as_json=json):
        raise Exit(code=code)


@task(
    help={
        "service": "Whose logs (default: all).",
        "follow": "Keep on showing new lines.",
        "tail": "How many lines to begin with (default: all).",
    }
)
def logs(c: Context, service: str = "", follow: bool = False, tail: str = "all") -> None:
    """Show the logs."""
    from stack.engines import choose
    from stack.ground import run

    number = invoke_bent.lines(tail)
    argv = choose.choose(ROOT).logs(service, follow=follow, tail=number)
    if sys.stdout.isatty():
        run.become(argv)
    raise Exit(code=run.relay(argv))


@task(help={"timeout": "Seconds to wait (default: 60)."})
def wait_healthy(c: Context, timeout: int = 60) -> None:
    """Wait until everything is usable, or say which service is not, and why."""
    from stack.engines import choose
    from stack.verbs import wait

    wait.wait_usable(choose.choose(ROOT), timeout)


@task(
    iterable=["command"],
    help={"command": "SQL to run; may be given more than once.", "file": "A file of SQL to run; - is stdin."},
)
def psql(c: Context, command: list[str], file: str = "") -> None:
    """Open psql in the database, or run SQL from -c, -f or stdin, ending at the first error; -- OPTIONS are psql's."""
    from stack.engines import choose
    from stack.verbs import psql

    psql.psql(choose.choose(ROOT), command, file, invoke_bent.words_after())


@task(
    help={
        "format": "dotenv, shell or json (default: dotenv).",
        "write": "An application's file, such as ../app/.env.local, in which they get their values; the rest of it"
        " stays as it is.",
        "key": "With an admin key of Convex (the default).",
    }
)
def env(c: Context, format: str = "dotenv", write: str | None = None, key: bool = True) -> None:
    """Print connection settings for other programs, password and admin key included, or write them to a file."""
    from stack.engines import choose
    from stack.ground.talk import give
    from stack.verbs import env

    chosen = choose.choose(ROOT)
    if write is None:
        give(env.env(chosen, format, key=key))
    else:
        env.write(chosen, write, format, key=key)


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
    }
)
def dump(c: Context, file: str = "", all: bool = False) -> None:
    """Write the whole database, or with --all Convex too, to a file that any engine can load."""
    from stack.engines import choose
    from stack.sql import formats
    from stack.verbs import dump_all

    dump_all.dump(choose.choose(ROOT), file or formats.redirected(), everything=all)


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


@task(
    help={
        "name": "What to call it (default: the date and time).",
        "message": "What it is for; `invoke snapshots` shows it.",
        "replace": "Take the place of a snapshot of that name.",
        "only": "pg, the database alone, or both (default: STACK_SNAPSHOT, both).",
    }
)
def snapshot(c: Context, name: str = "", message: str = "", replace: bool = False, only: str = "") -> None:
    """Save the database and Convex as they are now, for `restore`; sessions on the database are told and ended."""
    from stack.engines import choose
    from stack.verbs import snapshots

    with choose.changing(ROOT) as chosen:
        snapshots.take(chosen, name, message=message, overwrite=replace, only=only)


@task(
    help={
        "name": "Which snapshot (default: the one taken last).",
        "only": "pg or convex, one of the two, or both (default: STACK_SNAPSHOT, both).",
        "keep": "Keep what is replaced, as a snapshot of its own.",
        "yes": "Do not ask, though a replication slot or a subscription that is in use does not come along.",
    }
)
def restore(c: Context, name: str = "", only: str = "", keep: bool = False, yes: bool = False) -> None:
    """Put a snapshot in the place of what is there now, which `undo` brings back, until the next such step."""
    from stack.engines import choose
    from stack.verbs import restore

    with choose.changing(ROOT) as chosen:
        restore.restore(chosen, name, only=only, keep=keep, yes=yes)


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


@task(help={"name": "Which snapshot.", **YES})
def drop_snapshot(c: Context, name: str = "", yes: bool = False) -> None:
    """DELETE A SNAPSHOT; the database is not touched, and `undo` brings the snapshot back, until the next such step."""
    from stack.engines import choose
    from stack.verbs import snapshots

    with choose.changing(ROOT) as chosen:
        snapshots.drop(chosen, name, yes=yes)


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
    """DELETE A FORK with all that is in it; the database and the snapshots are not touched."""
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
def pool(c: Context, name: str = "", size: int = 0, json: bool = False) -> None:
    """Keep copies of a snapshot ready for tests: `SELECT stack.take()` in the database postgres hands one out."""
    from stack.engines import choose
    from stack.verbs import pool

    if name or size:
        with choose.changing(ROOT) as chosen:
            pool.make(chosen, name, size)
    else:
        pool.print_it(choose.choose(ROOT), as_json=json)


@task
def drop_pool(c: Context) -> None:
    """End the pool; copies that are taken go with the sessions that took them."""
    from stack.engines import choose
    from stack.verbs import pool

    with choose.changing(ROOT) as chosen:
        pool.end(chosen)


@task(help={"dry-run": "Only show what would go.", **YES})
def reset(c: Context, yes: bool = False, dry_run: bool = False) -> None:
    """Start over: stop everything, DELETE ALL DATA, start, seed."""
    from stack.engines import choose
    from stack.verbs import load, up, wipe

    with choose.changing(ROOT) as chosen:
        wipe.ask_and_wipe(chosen, yes=yes, dry_run=dry_run, prepare=lambda freed: up.prepare(chosen, freed))
        if dry_run:
            return
        up.bring_up(chosen, 60, pull=False, wait=True)
        load.seed(chosen)


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


@task(help={"fix": "Mend what can be mended safely; never deletes data.", "json": "Print JSON."})
def doctor(c: Context, fix: bool = False, json: bool = False) -> None:
    """Check everything that is known to go wrong, one line each with its cure; exit code 1 when anything failed."""
    from stack.doctor import run

    if code := run.doctor(ROOT, fix=fix, as_json=json):
        raise Exit(code=code)


@task(
    help={
        "isolated": "Pick a project name and free ports, so that this checkout can run beside another.",
        "password": "Pick a random POSTGRES_PASSWORD, in the place of the default one.",
        "data": "Fill it with a copy of the data of the checkout that this is a worktree of, which goes on meanwhile.",
        "from": "Copy the data of the checkout in this folder instead.",
        "snapshots": "Bring its snapshots, forks and what `undo` would bring back along with the data.",
    }
)
def init(
    c: Context,
    isolated: bool = False,
    password: bool = False,
    data: bool = False,
    from_: str = "",
    snapshots: bool = False,
) -> None:
    """Write .env from .env.example; one that is there is kept."""
    from stack.ground import lock
    from stack.ground.talk import say
    from stack.verbs import born, init

    born.refuse_half(isolated=isolated, data=data, only_with_data=bool(from_) or snapshots)
    with lock.exclusive(ROOT):
        if data:
            say(born.init_full(ROOT, from_, password=password, snapshots=snapshots))
        else:
            say(init.init(ROOT, isolated=isolated, password=password))


@task(
    help={"prune": "End those whose folder is gone, containers and servers. Asks first.", "json": "Print JSON.", **YES}
)
def stacks(c: Context, prune: bool = False, json: bool = False, yes: bool = False) -> None:
    """List the stacks of this machine, whichever checkout of yours made them."""
    from stack.verbs import stacks

    if prune:
        stacks.prune(ROOT, yes=yes)
    else:
        stacks.print_list(ROOT, as_json=json)


@task(help=YES)
def retire(c: Context, yes: bool = False) -> None:
    """Stop everything, DELETE THE DATA, and give name and ports back: what comes before this folder is deleted."""
    from stack.engines import choose
    from stack.verbs import retire

    with choose.changing(ROOT) as chosen:
        retire.retire(chosen, yes=yes)


@task
def admin_key(c: Context) -> None:
    """Print a new admin key of the Convex backend."""
    from stack.engines import choose
    from stack.engines.base import need
    from stack.ground.talk import give

    chosen = choose.choose(ROOT)
    give(need(chosen.convex, chosen).key())


@task
def dashboard(c: Context) -> None:
    """Open the Convex dashboard in the browser."""
    from stack.engines import choose
    from stack.verbs import env

    env.open_dashboard(choose.choose(ROOT))
