"""Start and stop."""

from __future__ import annotations

import sys

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from stack.commands import ROOT, invoke_bent


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

    with choose.changing(ROOT, layers, afresh=True) as chosen:
        orphans = meanwhile(lambda: stacks.mention(ROOT))
        up.bring_up(chosen, timeout, pull=pull, wait=wait)
        wipe.tidy(chosen)
    register.note(ROOT)
    say(env.summary(chosen))
    if told := orphans():
        say(told)


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


@task(help={"timeout": "Seconds to wait (default: 60)."})
def wait_healthy(c: Context, timeout: int = 60) -> None:
    """Wait until everything is usable, or say which service is not, and why."""
    from stack.engines import choose
    from stack.verbs import wait

    wait.wait_usable(choose.choose(ROOT), timeout)


@task
def down(c: Context) -> None:
    """Stop everything. The data stays."""
    from stack.engines import choose

    with choose.changing(ROOT) as chosen:
        chosen.stop()
