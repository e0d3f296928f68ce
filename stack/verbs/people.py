"""Who has the server's connections."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from contextlib import suppress

from stack.engines.base import Engine, need
from stack.ground import ports
from stack.ground.errors import StackError, Words
from stack.ground.run import look

SHOWN = 4
"""Kinds of sessions that a message names."""
_WHO = """
SELECT coalesce(json_agg(json_build_array(usename, datname, application_name, state, number)), '[]') FROM (
    SELECT usename, datname, application_name, state, count(*) AS number FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() GROUP BY 1, 2, 3, 4) AS sessions
"""
# "postgres: USER DATABASE HOST(PORT) STATE", with "CLUSTER: " before the user where cluster_name is set.
_SESSION = re.compile(r"postgres: (?:\S+: )?(.+) (\S+) (\[local\]|\S+\(\d+\)) (.+)$")


def full(engine: Engine, said: re.Match[str]) -> Words:
    """Tell that all connections are taken, of the server or of one database or role."""
    people = _people(engine)
    number = _limit(engine) or (f"{sum(people.values())}" if people else "")
    which = f"all {number} connections of the server".replace("  ", " ")
    cure = (
        "Close that program, or type `invoke restart postgres`, which ends every session; then type the command again."
    )
    if limited := re.search(r'for (database|role) "(.*)"', said[0]):
        which = f"all connections that the {limited[1]} {limited[2]!r} is allowed"
        cure = (
            f"Close that program, or end it with `invoke restart postgres`. The limit is the {limited[1]}'s own: a"
            f" superuser changes it with `ALTER {limited[1].upper()} … CONNECTION LIMIT -1`."
        )
    return f"{which} are taken{holders(engine, people)}", cure


def holders(engine: Engine, people: Counter[str] | None = None) -> str:
    """Return who has the connections, to be put behind a clause."""
    people = _people(engine) if people is None else people
    rows = [f"{count} by {who}" for who, count in people.most_common(SHOWN)]
    more = len(people) - SHOWN
    named = ", ".join([*rows, *([f"{more} more kinds"] if more > 0 else [])])
    endpoint = engine.endpoint()
    programs = ports.clients(int(endpoint.port)) if endpoint and endpoint.ours else Counter[str]()
    here = ", ".join(f"{count} of {name}" for name, count in programs.most_common(SHOWN))
    return f"{': ' * bool(named)}{named}{'; on this machine they are ' * bool(here)}{here}"


def _people(engine: Engine) -> Counter[str]:
    """Return whose sessions there are: by the server's word if it lets its superuser in, else by their titles."""
    rows = inside(engine, _WHO)
    if rows is not None:
        return Counter({_person(*row[:4]): row[4] for row in json.loads(rows)})
    found: Counter[str] = Counter()
    try:
        titles = need(engine.inside, engine).titles()
    except StackError:
        return found
    for title in titles:
        # One that is just coming in is about to be turned away, as ours was that asks.
        if (session := _SESSION.search(title)) and session[4] not in ("initializing", "authentication", "startup"):
            found[_person(session[1], session[2], "", session[4])] += 1
    return found


def _person(user: str | None, database: str | None, program: str | None, state: str | None) -> str:
    who = f"{program} (user {user}" if program else f"the user {user} ("
    return f"{who}{', ' * bool(program)}database {database}, {state or 'at work'})"


def _limit(engine: Engine) -> str:
    return (inside(engine, "SHOW max_connections") or "").strip()


def inside(engine: Engine, query: str) -> str | None:
    """Return what a superuser is told through the socket, on which no password is asked; None when nobody gets in."""
    endpoint = engine.endpoint()
    for user in dict.fromkeys((endpoint.user if endpoint else "postgres", "postgres")):
        with suppress(StackError):
            return tell(engine, user, query)
    return None


def tell(engine: Engine, user: str, statements: str) -> str:
    """Run statements through that socket, and return what they print. Raises StackError when the server refuses."""
    with tempfile.TemporaryFile() as source:
        source.write(statements.encode())
        source.seek(0)
        result = look(*need(engine.inside, engine).peer(user, "template1"), stdin=source)
    if result.returncode:
        raise StackError(f"The server refused: {result.stderr.strip()}")
    return result.stdout.strip()
