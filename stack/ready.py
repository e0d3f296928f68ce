"""Ready means ready: every service healthy, and a login from this machine that works."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from stack import identity, ports
from stack.engine import Engine, Start
from stack.identity import Identity
from stack.process import StackError, meanwhile
from stack.refusals import APART, Kind, explain, refusal
from stack.service import LIBPQ, Endpoint, Service, conninfo
from stack.settings import DEFAULTS
from stack.talk import live, say

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


_ENVIRONMENT = threading.Lock()
"""Held while variables are out of the environment: a second login must not take their absence for the usual."""


class LoginFailed(Exception):
    """The database did not let us in; the message is the server's."""


class Stopped(StackError):
    """A service was stopped, by somebody or something, while everything was started."""


class Stranger(StackError):
    """Another server than this stack's answers at its address."""


def connect(endpoint: Endpoint) -> Connection[Any]:
    """Log in as a client of the user's would; each statement commits by itself. Raises LoginFailed."""
    import psycopg

    with _ENVIRONMENT:
        # No parameter says "no service", so the variables themselves must go.
        hidden = {name: os.environ.pop(name) for name in LIBPQ if endpoint.ours and name in os.environ}
        try:
            return psycopg.connect(conninfo({"connect_timeout": "3", **endpoint.parameters()}), autocommit=True)
        except psycopg.OperationalError as error:
            raise LoginFailed(str(error).strip()) from None
        finally:
            os.environ.update(hidden)


def login(endpoint: Endpoint, engine: Engine) -> str:
    """Log in as the user would, and return the server's version.

    Raises LoginFailed, and Stranger when it is another server than the engine's that has let us in.
    """
    import psycopg

    def inside(*, surely: bool = False) -> Identity:
        return engine.identifier(engine.running("postgres"), surely=surely)

    quick = meanwhile(inside) if endpoint.ours else None
    with connect(endpoint) as connection:
        try:
            connection.execute("SELECT 1")
            if quick:
                prove(connection, quick, lambda: inside(surely=True))
        except psycopg.OperationalError as error:
            raise LoginFailed(str(error).strip()) from None
        except Stranger:
            raise
        except StackError:
            pass  # nobody can tell: enough to look at it, not to change it
        return connection.info.parameter_status("server_version") or "unknown"


def prepare(engine: Engine, freed: int) -> None:
    """See to it that a start can succeed before `freed` bytes of data are deleted; fetch images that are missing.

    Raises StackError, with nothing touched, when it cannot.
    """
    try:
        if engine.missing_images():
            engine.pull(missing=True)
        engine.check_start(freed)
    except StackError as error:
        raise StackError(f"Nothing was deleted, since it could not be started again. {error}", error.code) from None


def prove(connection: Connection[Any], quick: Callable[[], Identity], surely: Callable[[], Identity]) -> None:
    """Return when a session is on the engine's own server, as that is seen from inside.

    `quick` and `surely` say what is seen from inside. Raises Stranger when it is another, and StackError when nobody
    can tell.
    """
    theirs = _identity(connection)
    with suppress(StackError):
        if quick().is_of(theirs):
            return
    ours = surely()
    if not ours.is_of(theirs):
        raise _stranger(connection, theirs, ours)


def _identity(connection: Connection[Any]) -> Identity:
    """Return what the server of a session tells of itself; who may not read its files is told when it began."""
    import psycopg

    system = _system_identifier(connection)
    query = "SELECT extract(epoch FROM pg_postmaster_start_time())::float8, has_function_privilege({}, 'EXECUTE')"
    try:
        ((began, may_read),) = connection.execute(query.format("'pg_read_file(text)'").encode()).fetchall()
        ((lock,),) = connection.execute(f"SELECT pg_read_file('{identity.LOCK}')".encode()) if may_read else [("",)]
    except psycopg.OperationalError:
        raise
    except psycopg.Error:
        return Identity(system)
    return Identity(system, lock, began)


def _system_identifier(connection: Connection[Any]) -> int:
    """Return that of the server of a session; 0 when it has none, being older than 9.6 or no PostgreSQL."""
    import psycopg

    try:
        query = "SELECT system_identifier::text FROM pg_control_system()"
        return next(int(row[0]) % 2**64 for row in connection.execute(query))  # int8 in SQL, unsigned in the file
    except psycopg.errors.InsufficientPrivilege as error:
        raise StackError(
            f"The server does not tell which cluster it has, so nothing was done: {str(error).strip()}.",
            cure="As a superuser, `GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC` in the database postgres.",
        ) from None
    except psycopg.OperationalError:
        raise
    except psycopg.Error:
        return 0


def _stranger(connection: Connection[Any], theirs: Identity, ours: Identity) -> Stranger:
    told = connection.info
    directory = "".join(
        f", its data in {row[0]}"  # as it calls it itself; who may not know is told nothing
        for row in connection.execute("SELECT setting FROM pg_settings WHERE name = 'data_directory'")
    )
    which = f"with the system identifier {theirs.system}, where this stack's has {ours.system}"
    if theirs.system == ours.system:
        times = [time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.began)) for each in (theirs, ours)]
        which = f"on a copy of the same cluster; it was started {times[0]}, this stack's {times[1]}"
    return Stranger(
        f"Another server answers at {told.host}:{told.port}, not this stack's: PostgreSQL"
        f" {told.parameter_status('server_version')}{directory}, {which}. There listens"
        f" {ports.holder(told.port, told.host)}. It was not touched.",
        cure=APART,
    )


def bring_up(engine: Engine, timeout: float, *, pull: bool, wait: bool) -> None:
    """Start everything, fetching images that are missing, and wait until it is usable (`timeout` in seconds)."""
    if pull:
        engine.pull()
    try:
        _start_again_if_stopped(engine, timeout, wait)
    except StackError:
        if pull or not engine.missing_images():
            raise
        engine.pull(missing=True)
        _start_again_if_stopped(engine, timeout, wait)
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
                if start and started and any(service.state == "not started" for service in services):
                    started = _done(engine, start)  # what has ended since it was asked says why
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
                        engine.check_seen(services)
                        return
                    if _lasting(engine, judged(refusal), since, clock()):
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
    if service.state == "paused":
        engine.resume()
    if service.ended:
        # Left to itself it would be started again, so somebody has stopped it.
        stopped = service.state == "exited" and not service.exit_code
        failure = Stopped if stopped and not service.one_shot else StackError
        _give_up(engine, service, f"has ended with exit code {service.exit_code}", failure=failure)
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
            login(endpoint, engine)
    except LoginFailed as error:
        return str(error)
    return ""


def telling(said: str) -> str:
    """Return the line that tells most of a login that failed: libpq tries every address that a name has.

    What a server says goes before a network that does not answer, and what may pass before what will not.
    """
    lines = re.findall(r"connection to server .* failed: .*", said) or said.splitlines()[-1:] or [""]
    return min(lines, key=lambda line: ("Connection refused" in line, "FATAL" not in line, refusal(line) is not None))


def judged(said: str) -> str:
    """Return what to judge a login that failed by: all of it, or where several addresses were tried, the line above."""
    return telling(said) if said.count("connection to server") > 1 else said


def _database(services: list[Service]) -> Service:
    return next(service for service in services if service.name == "postgres")


def _give_up(
    engine: Engine, service: Service, what: str, said: str = "", *, failure: type[StackError] = StackError
) -> NoReturn:
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
    elif not why and "Connection refused" in telling(said):
        cure = "Nothing forwards its port to it. Type `invoke down`, then `invoke up`."
    if (endpoint := engine.endpoint()) and not endpoint.ours:
        cure = "Mend DATABASE_URL, or the server that it names."
    parts = [f"{service.name} {what}{': ' * bool(why)}{why}. Its state: {service}."]
    if said:
        parts.append(f"It last said:\n{_indent(said)}")
    if log:
        parts.append(f"Its last log lines:\n{_indent(log)}")
    raise failure("\n".join([*parts, cure]))


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
