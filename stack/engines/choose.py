"""Which engine a checkout gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stack.engines.base import Engine
from stack.engines.docker.engine import Docker
from stack.ground import disk, settings, trash
from stack.ground import layers as told
from stack.ground.catalog import STATEFUL
from stack.ground.errors import StackError
from stack.ground.lock import exclusive
from stack.ground.talk import say
from stack.ground.volume import LAYER


def choose(root: Path = settings.ROOT, layers: str | None = None, *, afresh: bool = False) -> Engine:
    """Return the engine of the checkout at `root`, with the layers that run, or to start it `afresh` with those given.

    With STACK_ENGINE=auto that is the engine whose data is here; with the data of none or of both it is Docker if
    that answers, else the embedded one. DATABASE_URL alone chooses nothing.
    Raises Refused when a setting cannot be used, StackError when there is data of Docker's and Docker does not answer.
    """
    found = settings.load(root, layers=layers, afresh=afresh)
    return _automatic(found, root) if found.engine == "auto" else ENGINES[found.engine](found, root)


@contextmanager
def changing(root: Path = settings.ROOT, layers: str | None = None, *, afresh: bool = False) -> Iterator[Engine]:
    """Give the engine of a checkout while nobody else changes its stack. Raises as `choose` and `exclusive` do."""
    with exclusive(root):
        trash.settle(root)
        yield choose(root, layers, afresh=afresh)
        if afresh:
            told.keep(root, layers)  # they run now


def _docker(found: settings.Settings, root: Path) -> Engine:
    return Docker(found, root)


def _embedded(found: settings.Settings, root: Path, *, instead: str = "") -> Engine:
    from stack.engines.embedded.engine import Embedded

    return Embedded(found, root, instead=instead)


def _external(found: settings.Settings, root: Path) -> Engine:
    from stack.engines.external import External

    return External(found, root)


ENGINES: dict[str, Callable[[settings.Settings, Path], Engine]] = {
    "docker": _docker, "embedded": _embedded, "external": _external,
}  # fmt: skip
"""By the word for STACK_ENGINE. Each imports its room when it is chosen, which is time that the others save."""


def with_data(root: Path) -> list[str]:
    """Return the engines of which a checkout has data."""
    leaves = {"docker": STATEFUL, "embedded": ("embedded",)}
    return [name for name, its in leaves.items() if any(disk.has_data(root / "data" / leaf) for leaf in its)]


def _automatic(found: settings.Settings, root: Path) -> Engine:
    containers, embedded = (name in with_data(root) for name in ("docker", "embedded"))
    # What is in a volume cannot be seen without Docker: the layer says that the data is there.
    containers = containers or LAYER in found.layers
    if embedded != containers:
        return ENGINES["embedded" if embedded else "docker"](found, root)  # Docker says so itself when it is silent
    docker = Docker(found, root)
    why_not = docker.why_not()
    if why_not and containers:
        raise StackError(
            f"{why_not}\nThis checkout has data of both engines, so the embedded one is not started in its place. Start"
            " Docker, or set STACK_ENGINE=embedded."
        )
    if not why_not:
        return docker
    say("Docker does not answer here: PostgreSQL 17 runs without it, and there is no Convex (embedded engine).")
    return _embedded(found, root, instead=why_not)
