"""When it does not work, and settings."""

from __future__ import annotations

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from stack.commands import ROOT, YES


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
