"""Ready means ready: every service healthy, and a login from this machine that works."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from stack.engine import Engine, Start
from stack.process import StackError
from stack.refusals import Kind, explain, refusal
from stack.service import LIBPQ, Endpoint, Service, conninfo
from stack.talk import live

if TYPE_CHECKING:
    from psycopg import Connection

PAUSE = 0.03
"""Seconds between two looks in the first second, in which a warm start ends. A look costs 15 ms of a core."""
LATER_PAUSE = 0.1
"""The same after that: a cold start needs the processor itself."""
GLANCE = 0.5
"""Seconds between two looks while Compose is still creating containers, which needs the processor itself."""

PATIENCE = 3.0
"""Seconds in which all connections may be free again; the programs that have them seldom let go."""


class LoginFailed(Exception):
    """The database did not let us in; the message is the server's."""


def connect(endpoint: Endpoint) -> Connection[Any]:
    """Log in as a client of the user's would; each statement commits by itself. Raises LoginFailed."""
    import psycopg

    hidden = {name: os.environ.pop(name) for name in LIBPQ if endpoint.ours and name in os.environ}
    try:
        return psycopg.connect(conninfo({"connect_timeout": "3", **endpoint.parameters()}), autocommit=True)
    except psycopg.OperationalError as error:
        raise LoginFailed(str(error).strip()) from None
    finally:
        os.environ.update(hidden)


def login(endpoint: Endpoint) -> str:
    """Log in as the user would, and return the server's version. Raises LoginFailed."""
    import psycopg

    with connect(endpoint) as connection:
        try:
            connection.execute("SELECT 1")
        except psycopg.OperationalError as error:
            raise LoginFailed(str(error).strip()) from None
        return connection.info.parameter_status("server_version") or "unknown"


def bring_up(engine: Engine, timeout: float, *, pull: bool, wait: bool) -> None:
    """Start everything, fetching images that are missing, and wait until it is usable (`timeout` in seconds)."""
    if pull:
        engine.pull()
    try:
        _start(engine, timeout, wait)
    except StackError:
        if pull or not engine.missing_images():
            raise
        engine.pull(missing=True)
        _start(engine, timeout, wait)


def _start(engine: Engine, timeout: float, wait: bool) -> None:
    start = engine.start()
    if wait:
        wait_usable(engine, timeout, start)
    else:
        start.finish()
        _done(engine, start)


def _done(engine: Engine, start: Start) -> bool:
    """Return whether everything was started. Raises StackError, with what is known of the reason, when it was not."""
    try:
        return start.done()
    except StackError as error:
        if not (found := explain(engine, error.what, log=True)):
            raise
        why, cure = found
        raise StackError(f"{error.what.rstrip()}\n{why[:1].upper()}{why[1:]}.", cure=cure) from None


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
    began = clock()
    deadline = began + timeout
    restarts: dict[str, int] = {}
    since: dict[str, float] = {}
    next_look = began if start is None else began + GLANCE
    try:
        with live() as show:
            import psycopg  # noqa: F401 - 70 ms, spent while containers start

            while True:
                started = start is None or _done(engine, start)
                if not started and clock() < min(next_look, deadline):
                    pause(PAUSE)
                    continue
                next_look = clock() + GLANCE
                services = engine.services()
                for service in services:
                    restarts[service.name] = min(service.restarts, restarts.get(service.name, service.restarts))
                    _check(engine, service, started, restarts[service.name])
                    if started and service.health != "healthy" and _lasting(engine, service.output, since, clock()):
                        _give_up(engine, service, "does not let us in")
                waiting = [service for service in services if not service.ready]
                refusal = ""
                if started and not waiting:
                    refusal = _refusal(engine)
                    if not refusal:
                        return
                    if _lasting(engine, refusal, since, clock()):
                        _give_up(engine, _database(services), "does not let us in", refusal)
                if clock() >= deadline:
                    late = waiting[0] if waiting else _database(services)
                    _give_up(engine, late, f"was not usable within {timeout:g} s", refusal)
                if waiting or refusal:
                    show(", ".join(f"{each.name} ({each.health or each.state})" for each in waiting) or refusal)
                pause(PAUSE if clock() < began + 1 else LATER_PAUSE)
    finally:
        if start:
            start.abandon()


def _check(engine: Engine, service: Service, started: bool, restarts: int) -> None:
    if service.restarts >= restarts + 2:
        _give_up(engine, service, f"keeps ending, with exit code {service.exit_code}")
    if not started:
        return  # what is seen may be a container of yesterday that is about to be replaced
    if service.state == "not started":
        _give_up(engine, service, "is not running")
    if service.ended:
        _give_up(engine, service, f"has ended with exit code {service.exit_code}")
    if service.state == "restarting" and service.restarts > 2:
        _give_up(engine, service, f"keeps ending, with exit code {service.exit_code}")


def _lasting(engine: Engine, said: str, since: dict[str, float], now: float) -> Kind | None:
    """Return the kind of a refusal that waiting does not end; of one that may end by itself, after a while.

    A server whose sessions crash over a lost file is in recovery whenever it is asked; its log says why.
    """
    kind = refusal(said)
    recovers = "the database system is in recovery mode" in said
    if recovers or (kind and kind.passing):
        begun = since.setdefault("recovery" if recovers else "full", now)
        if now - begun < PATIENCE:
            return None
    return refusal(engine.last_words("postgres"), log=True) if recovers else kind


def _refusal(engine: Engine) -> str:
    endpoint = engine.endpoint()
    try:
        if endpoint:
            login(endpoint)
    except LoginFailed as error:
        return str(error)
    return ""


def _database(services: list[Service]) -> Service:
    return next(service for service in services if service.name == "postgres")


def _give_up(engine: Engine, service: Service, what: str, said: str = "") -> NoReturn:
    said = said or (service.output if service.health != "healthy" else "")
    # One that keeps ending may have begun anew: its reason stands above the first words of this attempt.
    log = engine.last_words(service.name, 45 if service.restarts else 15) if service.state != "not started" else ""
    why, cure = (
        explain(engine, said)
        or explain(engine, log, log=True)
        or ("", f"Type `invoke logs {service.name}` for more, `invoke up` to try again.")
    )
    if service.state == "not started":
        cure = "Type `invoke up`."
    if (endpoint := engine.endpoint()) and not endpoint.ours:
        cure = "Mend DATABASE_URL, or the server that it names."
    parts = [f"{service.name} {what}{': ' * bool(why)}{why}. Its state: {service}."]
    if said:
        parts.append(f"It last said:\n{_indent(said)}")
    if log:
        parts.append(f"Its last log lines:\n{_indent(log)}")
    raise StackError("\n".join([*parts, cure]))


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
