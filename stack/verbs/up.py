"""Everything is started; images that are missing are fetched."""

from __future__ import annotations

from stack.engines.base import Engine, need
from stack.ground import ports
from stack.ground.errors import StackError
from stack.ground.settings import DEFAULTS
from stack.ground.talk import say
from stack.verbs import exchange, keeper, kept
from stack.verbs.wait import NotStarted, Stopped, finish, wait_usable


def prepare(engine: Engine, freed: int) -> None:
    """See to it that a start can succeed before `freed` bytes of data are deleted; fetch images that are missing.

    Raises StackError, with nothing touched, when it cannot.
    """
    kept.give_way(engine)
    try:
        images = need(engine.images, engine)
        if images.missing():
            images.pull(missing=True)
        engine.check_start(freed)
    except StackError as error:
        raise StackError(f"Nothing was deleted, since it could not be started again. {error}", error.code) from None


def bring_up(engine: Engine, timeout: float, *, pull: bool, wait: bool) -> None:
    """Start everything, fetching images that are missing, and wait until it is usable (`timeout` in seconds)."""
    images = need(engine.images, engine)
    kept.give_way(engine)
    if pull:
        images.pull()
    try:
        _start_again_if_stopped(engine, timeout, wait)
    except NotStarted:
        if pull or not images.missing():
            raise
        images.pull(missing=True)
        _start_again_if_stopped(engine, timeout, wait)
    if wait and exchange.settle_after_start(engine):
        wait_usable(engine, timeout)
    if wait:
        keeper.go_on(engine)
    if door := open_door(engine):
        say(f"Warning: {door[0]} {door[1]}")


def open_door(engine: Engine) -> tuple[str, str] | None:
    """Return how others can come in, by the default password on a port that other machines reach, and the cure."""
    endpoint = engine.endpoint()
    if not endpoint or endpoint.password != DEFAULTS["POSTGRES_PASSWORD"]:
        return None
    others = ", ".join(filter(ports.open_to_others, engine.addresses()))
    cure = (
        "`invoke init --password` writes a random one into `.env`, and `invoke doctor --fix` gives it to the database."
    )
    if engine.settings.password != endpoint.password:
        cure = "It stands in a layer: change it there, then type `invoke up` and `invoke doctor --fix`."
    why = f"PostgreSQL listens on {others} with the default password, which everybody knows."
    return (why, cure) if others else None


def _start_again_if_stopped(engine: Engine, timeout: float, wait: bool) -> None:
    """Start everything; once more when somebody has stopped a service meanwhile, as a `down` that was killed does.

    Docker carries out a stop that it was asked for, however late, though nobody waits for it any more.
    """
    try:
        _start(engine, timeout, wait)
    except Stopped as error:
        say(f"{error.what.partition('.')[0]}: it was stopped while it started. Starting it once more.")
        _start(engine, timeout, wait)


def _start(engine: Engine, timeout: float, wait: bool) -> None:
    start = engine.start()
    if wait:
        wait_usable(engine, timeout, start)
    else:
        finish(engine, start)
