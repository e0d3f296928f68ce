"""Checks of what runs, and of the way in."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from stack.doctor.case import Case
from stack.doctor.mend import create_database, inside, lets_in, open_database, set_password
from stack.engines.base import Engine, paused
from stack.engines.checks import Finding, Findings, check, failed, ok, skipped, warning
from stack.ground.errors import StackError
from stack.ground.ports import holder
from stack.server import releases
from stack.server.address import Endpoint
from stack.server.identity import APART
from stack.server.session import LoginFailed
from stack.verbs import causes, up
from stack.verbs.causes import explain
from stack.verbs.login import login, telling

POSTGRES = "postgres"
# What our own server does not say to who has its user, password and database; the last three are no PostgreSQL.
_REFUSED = re.compile(
    r'password authentication failed|(role|database) ".*" does not exist'
    r"|invalid response|expected authentication|timeout"
)


@check("address", "project name")
def services(case: Case) -> Findings:
    """Every service that was started is healthy.

    `invoke logs SERVICE` for its words, `invoke up` to try again.
    """
    if all(service.state == "not started" for service in case.services.values()):
        yield skipped("nothing runs; type `invoke up`")
        return
    ill = [service for service in case.services.values() if not service.ready]
    for service in ill:
        if service.just_starting:
            yield warning(f"{service.name} is starting.", "Type `invoke wait-healthy`.")
        elif service.state == "paused":
            yield failed((found := paused(service.name)).what, found.cure)
        else:
            log = case.engine.last_words(service.name) if service.state != "not started" else ""
            asking = f"Type `invoke logs {service.name}` for its words, `invoke up` to try again."
            known = explain(case.engine, service.output) or explain(case.engine, log, log=True)
            why, cure = known or (service.output or "see its log", asking)
            yield failed(f"{service.name} is {service}: {why}.", cure)
    if not ill:
        yield ok("all healthy")


@check("address", "project name", elsewhere=True)
def log_in(case: Case) -> Findings:
    """A login from this machine works: the data was initialised with the password, user and database of `.env`.

    Put the former value back. `--fix` gives the database the new password, and creates a missing database. When another
    server answers at the address of this stack's, stop that, or `invoke init --isolated`.
    """
    service = case.services.get(POSTGRES)
    if not case.endpoint or not service or service.state != "running":
        yield skipped("postgres is not running")
        return
    if service.restarts and service.health == "starting":
        yield skipped("postgres keeps ending")
        return
    try:
        yield ok(f"works: PostgreSQL {login(case.endpoint, case.engine)}")
    except LoginFailed as error:
        if case.ours and "Connection refused" in telling(str(error)):
            why = f"Nothing listens at {case.endpoint.url()}; the settings may have changed since it was started."
            yield failed(why, "Type `invoke down`, then `invoke up`, to start with those of now.")
        else:
            yield _shut(case, case.endpoint, str(error)) or _why_not_in(case, case.endpoint, str(error))


@check("address", "project name", elsewhere=True)
def minor_version(case: Case) -> Findings:
    """The server is the newest minor release that this checkout knows, or newer: each mends faults of the former one.

    Its data goes on as it is. Set `POSTGRES_IMAGE=postgres:17-trixie` in `.env` and `invoke up --pull`; without Docker
    upgrade the system's PostgreSQL 17, or install it, then `invoke restart`.
    """
    told, cure = case.engine.release()
    service = case.services.get(POSTGRES)
    if case.endpoint and service and service.state == "running":
        with suppress(StackError, LoginFailed):  # which is said above
            told = login(case.endpoint, case.engine)
    if not told:
        yield skipped("nobody can tell which one it is before it runs and lets us in")
    elif releases.behind(told):
        message = f"This is PostgreSQL {told.split()[0]}, and on {releases.SEEN} the newest was {releases.NEWEST}."
        yield warning(message, cure)
    else:
        yield ok(f"PostgreSQL {told.split()[0]}")


def _why_not_in(case: Case, endpoint: Endpoint, said: str) -> Finding:
    last = telling(said)
    if not case.ours:
        return failed(f"{endpoint.url()} does not let us in: {last}", "Mend DATABASE_URL, or the server.")
    known = inside(case.engine, endpoint)
    if known and (found := _differs(case.engine, endpoint, said, known)):
        return found
    if "password authentication failed" in said:
        return failed(
            f"The data was initialised with another user, or with another password and a superuser who is not"
            f" {' or '.join(dict.fromkeys((endpoint.user, POSTGRES)))}.",
            "Put the former POSTGRES_USER and POSTGRES_PASSWORD back.",
        )
    log = case.engine.last_words(POSTGRES)
    known_of_it = explain(case.engine, said) or explain(case.engine, log, log=True)
    why, cure = known_of_it or ("", "Type `invoke logs postgres`.")
    return failed(f"The database does not let us in: {why or last}.", cure)


def _shut(case: Case, endpoint: Endpoint, said: str) -> Finding | None:
    """Return that a server is full, or a database closed; None when it refuses for another reason."""
    kind = causes.refusal(said)
    if not case.ours or not kind or kind.cause == "other":
        return None
    if another := causes.anothers(case.engine, said):
        return failed(f"The database does not let us in: {another[0]}.", another[1])
    why, cure = kind.explain(case.engine, said)
    message = f"The database does not let us in: {why}."
    if kind.cause == "full":
        return failed(message, cure)
    return failed(message, cure, lambda: open_database(case.engine, endpoint))


def _differs(chosen: Engine, endpoint: Endpoint, said: str, known: dict[str, Any]) -> Finding | None:
    """Return in what our own server, asked from inside, differs from the settings, or from the one that answered."""
    if endpoint.user not in known["users"]:
        return failed(
            f"The data was initialised with another user: it has no {endpoint.user!r}, but {names(known['users'])}.",
            "Put the former POSTGRES_USER back.",
        )
    # Of a database whose files are gone our own server says that it does not exist, and the reason in a DETAIL.
    if _REFUSED.search(said) and "subdirectory" not in said and lets_in(chosen, endpoint, known):
        return failed(
            f"Another than this stack's server listens at {endpoint.host}:{endpoint.port}:"
            f" {holder(int(endpoint.port), endpoint.host)}. It does not let us in ({telling(said)}), and this stack's"
            " own has the password, the user and the database of the settings.",
            APART,
        )
    if "password authentication failed" in said:
        return failed(
            "The data was initialised with another password.",
            "Put the former POSTGRES_PASSWORD back, or type `invoke doctor --fix` to give the database the new one.",
            lambda: set_password(chosen, endpoint, known["superuser"]),
        )
    if endpoint.database not in known["databases"]:
        return failed(
            f"There is no database {endpoint.database!r}, but {names(known['databases'])}.",
            "Put the former POSTGRES_DB back, or type `invoke doctor --fix` to create an empty one.",
            lambda: create_database(chosen, endpoint, known["superuser"]),
        )
    return None


def names(names: list[str]) -> str:
    """Return names as a person would list them."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


@check("address", "project name")
def open_door(case: Case) -> Findings:
    """The database's password is not the default one, which everybody knows, where other machines reach its port.

    `invoke init --password` writes a random one into `.env`; then `invoke up`, and `invoke doctor --fix` for data that
    is there already.
    """
    if door := up.open_door(case.engine):
        yield warning(*door)
    else:
        yield ok("closed to whom only the default password would let in")
