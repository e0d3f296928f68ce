"""Everything is started over: deleted, started, seeded."""

from __future__ import annotations

from contextlib import suppress

from stack.engines.base import Engine
from stack.ground.errors import StackError
from stack.ground.talk import say
from stack.server.session import LoginFailed
from stack.verbs import exchange, kept, spares, up, wipe
from stack.verbs.filled import Aside
from stack.verbs.login import administrator
from stack.verbs.seeds import found


def reset(engine: Engine, *, yes: bool, dry_run: bool) -> None:
    """Stop everything, delete all data, start, seed; with what the last one has made if the same would be made."""
    if engine.data:
        found(engine)  # before anything goes
    wipe.ask_and_wipe(engine, yes=yes, dry_run=dry_run, prepare=lambda freed: up.prepare(engine, freed), again=True)
    if dry_run:
        return
    wanted = kept.made_of(engine)
    if (there := kept.take(engine, wanted)) and _started(engine, there):
        say("It has what the last reset has kept: neither seed/ nor the settings have changed since.")
    else:
        from stack.verbs import load  # with all that reads files of SQL, which takes longer than a start

        up.bring_up(engine, 60, pull=False, wait=True)
        if load.seed(engine, then=lambda place: kept.keep(place, wanted)):
            return
        _keep_empty(engine, wanted)
    spares.go_on_in_background(engine)


def _started(engine: Engine, there: kept.Kept) -> bool:
    """Start with what was kept; return False when that is of no use, and all is empty again."""
    try:
        up.bring_up(engine, 60, pull=False, wait=True)
        with administrator(engine, "invoke") as cluster:
            kept.check(there, cluster)
            spares.tell_and_tidy(engine, cluster)
    except (StackError, LoginFailed) as error:
        say(f"What was kept of the last reset cannot be used, so everything is made anew. {str(error).rstrip()}")
    else:
        return True
    engine.stop()
    wipe.give_up_kept(engine)
    wipe.wipe(engine, {loss.leaf: loss.path for loss in wipe.losses(engine)})
    return False


def _keep_empty(engine: Engine, wanted: str) -> None:
    with suppress(StackError), exchange.at_work(engine) as cluster:  # it is a convenience
        spares.take_over(cluster)
        place = Aside(engine, cluster, cluster.database)
        place.look()
        kept.keep(place, wanted)
