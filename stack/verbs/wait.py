"""Ready means ready: every service healthy, and a login from this machine that works."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from stack.engines.base import Engine, Service, Start
from stack.ground.catalog import POSTGRES
from stack.ground.errors import StackError
from stack.ground.talk import live
from stack.server.session import LoginFailed
from stack.verbs.causes import Kind, explain, refusal
from stack.verbs.login import judged, login, telling

PAUSE = 0.03
"""Seconds between two looks in the first second, in which a warm start ends. A look costs 15 ms of a core."""
LATER_PAUSE = 0.1
"""The same after that: a cold start needs the processor itself."""
GLANCE = 0.5
"""Seconds between two looks while Compose is still creating containers, which needs the processor itself."""
PATIENCE = 3.0
"""Seconds in which all connections may be free again; the programs that have them seldom let go."""
RECOVERS = "the database system is in recovery mode"
"""What a server says while it recovers from a crash."""


class Stopped(StackError):
    """A service was stopped, by somebody or something, while everything was started."""


class NotStarted(StackError):
    """What starts the services has failed."""


@dataclass(frozen=True)
class Seen:
    """What one look has shown."""

    moment: float
    """Seconds, by the clock of whoever waits."""
    started: bool
    """Whether everything has been started; until then a container may be yesterday's, about to be replaced."""
    services: Sequence[Service]
    refusal: str = ""
    """What the login was told, which is tried when every service is ready; empty when it worked."""
    log: str = ""
    """The server's log, which is looked at when it says that it recovers."""


@dataclass(frozen=True)
class Past:
    """What the looks before have shown."""

    restarts: Mapping[str, int] = field(default_factory=dict)
    """The fewest of each service."""
    since: Mapping[str, float] = field(default_factory=dict)
    """When a refusal that may end by itself was first heard, by its kind."""


@dataclass(frozen=True)
class Ready:
    """Everything is usable."""


@dataclass(frozen=True)
class Waiting:
    """Something is not usable yet."""

    late: Service
    words: str
    said: str = ""


@dataclass(frozen=True)
class Lost:
    """Waiting longer will not help."""

    service: Service
    what: str
    said: str = ""
    failure: type[StackError] = StackError


def wait_usable(
    engine: Engine,
    timeout: float = 60,
    start: Start | None = None,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Return once every service is healthy and a login with SELECT 1 from this machine works.

    `timeout` is in seconds; `start` is watched meanwhile. Raises StackError at the deadline, and at once when
    a container ends or crash-loops or the database can never let us in: it names the service and what it said.
    """
    began, past = clock(), Past()
    next_look = began if start is None else began + GLANCE
    try:
        with live() as show:
            import psycopg  # noqa: F401 - 70 ms, spent while containers start

            while True:
                started = start is None or _started(engine, start)
                if not started and clock() < min(next_look, began + timeout):
                    pause(PAUSE)
                    continue
                next_look = clock() + GLANCE
                seen = gather(engine, start, started, clock)
                verdict, past = judge(seen, past)
                if isinstance(verdict, Ready):
                    engine.check_seen(list(seen.services))
                    return
                if isinstance(verdict, Waiting) and clock() >= began + timeout:
                    verdict = Lost(verdict.late, f"was not usable within {timeout:g} s", verdict.said)
                if isinstance(verdict, Lost):
                    raise word(engine, verdict)
                show(verdict.words)
                pause(PAUSE if clock() < began + 1 else LATER_PAUSE)
    finally:
        if start:
            start.leave()


def finish(engine: Engine, start: Start) -> None:
    """Wait until everything was started. Raises NotStarted."""
    with _told(engine):
        start.finish()


def _started(engine: Engine, start: Start) -> bool:
    """Go on with a start, and return whether everything was started. Raises NotStarted."""
    with _told(engine):
        return start.go_on()


@contextmanager
def _told(engine: Engine) -> Iterator[None]:
    """Tell of a start that fails what is known of the reason. Raises NotStarted."""
    try:
        yield
    except StackError as error:
        what, cure = error.what, error.cure
        if found := explain(engine, error.what, log=True):
            what, cure = f"{error.what.rstrip()}\n{found[0][:1].upper()}{found[0][1:]}.", found[1]
        raise NotStarted(what, error.code or 1, cure=cure) from None


def gather(engine: Engine, start: Start | None, started: bool, clock: Callable[[], float]) -> Seen:
    """Look at every service, and at the login when all are ready. Raises NotStarted."""
    services = engine.services()
    if start and started and any(service.state == "not started" for service in services):
        started = _started(engine, start)  # what has ended since it was asked says why
    if started and any(service.state == "paused" for service in services):
        engine.resume()
    asks = started and all(service.ready or _may_be_over(service) for service in services)
    refusal = _refusal(engine) if asks else ""
    recovers = any(RECOVERS in said for said in (refusal, *(service.output for service in services)))
    return Seen(clock(), started, services, refusal, engine.last_words(POSTGRES.name) if recovers else "")


def judge(seen: Seen, past: Past) -> tuple[Ready | Waiting | Lost, Past]:
    """Return what a look means after those before it, and what is to be remembered. Asks nothing, changes nothing."""
    restarts, since = dict(past.restarts), dict(past.since)
    now = Past(restarts, since)
    for service in seen.services:
        restarts[service.name] = min(service.restarts, restarts.get(service.name, service.restarts))
        if lost := _lost(service, seen.started, restarts[service.name]):
            return lost, now
        heard = judged(seen.refusal) if _may_be_over(service) else service.output
        if seen.started and service.health != "healthy" and _lasting(heard, seen, since):
            return Lost(service, "does not let us in", seen.refusal if _may_be_over(service) else ""), now
    waiting = [service for service in seen.services if not service.ready]
    if waiting or not seen.started:
        late = waiting[0] if waiting else _database(seen.services)
        return Waiting(late, ", ".join(f"{each.name} ({each.health or each.state})" for each in waiting)), now
    if not seen.refusal:
        return Ready(), now
    if _lasting(judged(seen.refusal), seen, since):
        return Lost(_database(seen.services), "does not let us in", seen.refusal), now
    return Waiting(_database(seen.services), seen.refusal, seen.refusal), now


def _may_be_over(service: Service) -> bool:
    """Return whether a health check was told what may have ended since: its words are as old as its interval."""
    kind = refusal(service.output) if service.health != "healthy" else None
    return kind is not None and kind.passing


def _lost(service: Service, started: bool, restarts: int) -> Lost | None:
    keeps_ending = Lost(service, f"keeps ending, with exit code {service.exit_code}")
    if service.restarts >= restarts + 2:
        return keeps_ending
    if not started:
        return None  # what is seen may be a container of yesterday that is about to be replaced
    if service.state == "not started":
        return Lost(service, "is not running")
    if service.ended:
        # Left to itself it would be started again, so somebody has stopped it.
        stopped = service.state == "exited" and not service.exit_code
        failure = Stopped if stopped and not service.one_shot else StackError
        return Lost(service, f"has ended with exit code {service.exit_code}", failure=failure)
    return keeps_ending if service.state == "restarting" and service.restarts > 2 else None


def _lasting(said: str, seen: Seen, since: dict[str, float]) -> Kind | None:
    """Return the kind of a refusal that waiting does not end; of one that may end by itself, after a while.

    A server whose sessions crash over a lost file is in recovery whenever it is asked; its log says why.
    """
    kind, recovers = refusal(said), RECOVERS in said
    if recovers or (kind and kind.passing):
        begun = since.setdefault("recovery" if recovers else "full", seen.moment)
        if seen.moment - begun < PATIENCE:
            return None
    return refusal(seen.log, log=True) if recovers else kind


def _refusal(engine: Engine) -> str:
    endpoint = engine.endpoint()
    try:
        if endpoint:
            login(endpoint, engine)
    except LoginFailed as error:
        return str(error)
    return ""


def _database(services: Sequence[Service]) -> Service:
    return next((service for service in services if service.name == POSTGRES.name), services[0])


def word(engine: Engine, lost: Lost) -> StackError:
    """Return what to say of what is lost: its state, its last words, why, and the cure."""
    service = lost.service
    said = lost.said or (service.output if service.health != "healthy" else "")
    # One that keeps ending may have begun anew: its reason stands above the first words of this attempt.
    log = engine.last_words(service.name, 45 if service.restarts else 15) if service.state != "not started" else ""
    why, cure = (
        explain(engine, said)
        or explain(engine, log, log=True)
        or ("", f"Type `invoke logs {service.name}` for more, `invoke up` to try again.")
    )
    if service.state == "not started":
        cure = "Type `invoke up`."
    elif not why and "Connection refused" in telling(lost.said):  # from here: a check asks from inside
        cure = "Nothing forwards its port to it. Type `invoke down`, then `invoke up`."
    if (endpoint := engine.endpoint()) and not endpoint.ours:
        cure = "Mend DATABASE_URL, or the server that it names."
    parts = [f"{service.name} {lost.what}{': ' * bool(why)}{why}. Its state: {service}."]
    if said:
        parts.append(f"It last said:\n{_indent(said)}")
    if log:
        parts.append(f"Its last log lines:\n{_indent(log)}")
    return lost.failure("\n".join([*parts, cure]))


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
