"""What a check of `doctor` is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import ModuleType

_NEEDS, _ELSEWHERE = "_needs", "_elsewhere"


@dataclass(frozen=True)
class Finding:
    """What a check found; `fix` mends it without deleting data."""

    state: str
    """ok, warning, failed, or skipped: it could not be looked at."""
    message: str
    cure: str = ""
    fix: Callable[[], object] | None = None
    check: str = ""
    fixed: bool = False

    @property
    def well(self) -> bool:
        """True when there is nothing to mend."""
        return self.state in ("ok", "skipped")


Findings = Iterator[Finding]


@dataclass(frozen=True)
class Check:
    """Something to look at, and the checks without which it would look at nothing."""

    name: str
    look: Callable[[], Findings]
    needs: tuple[str, ...]
    elsewhere: bool
    """Whether it says something about a server that somebody else runs."""
    texts: tuple[str, str]
    """What it wants to see, and the cure when it does not: the two paragraphs of its docstring."""


def check(*needs: str, elsewhere: bool = False) -> Callable[[Callable[..., Findings]], Callable[..., Findings]]:
    """Mark a function as a check, which is named after it."""

    def mark(look: Callable[..., Findings]) -> Callable[..., Findings]:
        setattr(look, _NEEDS, needs)
        setattr(look, _ELSEWHERE, elsewhere)
        return look

    return mark


def checks_in(room: object, *args: object) -> list[Check]:
    """Return the checks of a module, an object or a class, in the order of its file, to be called with `args`."""
    names = vars(room if isinstance(room, ModuleType | type) else type(room))
    found = [(name, getattr(room, name)) for name, value in names.items() if hasattr(value, _NEEDS)]
    return [_check(name, look, args) for name, look in found]


def in_order(checks: list[Check]) -> list[Check]:
    """Return checks so that each comes after those of them that it needs, and else as they stand."""
    left, done = list(checks), list[Check]()
    while left:
        waiting = {each.name for each in left}
        ready = next((each for each in left if not waiting.intersection(each.needs)), left[0])
        left.remove(ready)
        done.append(ready)
    return done


def _check(name: str, look: Callable[..., Findings], args: tuple[object, ...]) -> Check:
    wanted, _, cure = (look.__doc__ or "").partition("\n\n")
    texts = " ".join(wanted.split()), " ".join(cure.split())
    return Check(name.replace("_", " "), partial(look, *args), getattr(look, _NEEDS), getattr(look, _ELSEWHERE), texts)


def ok(message: str) -> Finding:
    """Return that all is well."""
    return Finding("ok", message)


def warning(message: str, cure: str, fix: Callable[[], object] | None = None) -> Finding:
    """Return that it works, and may not for long."""
    return Finding("warning", message, cure, fix)


def failed(message: str, cure: str, fix: Callable[[], object] | None = None) -> Finding:
    """Return that something does not work."""
    return Finding("failed", message, cure, fix)


def skipped(why: str) -> Finding:
    """Return that this could not be looked at."""
    return Finding("skipped", why)
