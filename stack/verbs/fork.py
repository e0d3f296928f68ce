"""The verbs on forks: databases beside the user's, copies of it or of a snapshot, that end when their time is over."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from stack.engines.base import Engine
from stack.ground.errors import Refused, StackError
from stack.ground.settings import is_identifier
from stack.ground.tables import print_columns
from stack.ground.talk import ago, confirm, counted, give, human, say
from stack.server.address import Endpoint
from stack.server.admin import Cluster
from stack.verbs import drop, exchange, spares, store
from stack.verbs.forks import Fork, forks, give_up_fork, snapshots_of
from stack.verbs.login import administrator

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_TTL = re.compile("".join(rf"(?:(\d{{1,6}}){unit})?" for unit in _UNITS))
_LONGEST = 63
"""Bytes in the name of a database: PostgreSQL would cut off the rest."""


def fork(engine: Engine, name: str = "", *, source: str = "", ttl: str = "", as_json: bool = False) -> None:
    """Make a database beside the user's, a copy of it or of the snapshot `source`, and print its address.

    A copy of the user's ends the sessions on it, one of a snapshot ends none. `ttl` is how long it is wanted, as in
    `90m` or `1d12h`; without it, it stays. Raises Refused when the name is taken or cannot be one, or the time is none.
    """
    seconds = _seconds(ttl)
    endpoint = engine.endpoint()
    with exchange.at_work(engine) as cluster:
        snapshot = store.find_one(cluster, source) if source else None
        name = _checked(name) if name else _next(cluster)
        if cluster.oid(name) is not None:
            raise Refused(f"There is a database {name!r} already, so nothing was done. Choose another name.")
        if not snapshot:
            if cluster.oid(cluster.database) is None:
                raise StackError(f"There is no database {cluster.database!r} to copy. Type `invoke doctor`.")
            spares.refuse_prepared(cluster, cluster.database)
        made = spares.spare_of(engine, cluster, snapshot) if snapshot else spares.copy_database(engine, cluster)
        of, now = snapshot.name if snapshot else cluster.database, time.time()
        new = Fork(name, cluster.size(made), 0, of, now, now + seconds if seconds else 0)
        with cluster.transaction():
            limit = snapshot.limit if snapshot else cluster.marks(cluster.database)[1]
            cluster.allow(made, anybody=True, limit=limit)
            cluster.set_comment(made, new.facts())
            cluster.rename(made, name)
        spares.tell_and_tidy(engine, cluster)
    spares.go_on_in_background(engine)
    told = _told(new, endpoint)
    give(json.dumps(told, indent=2) if as_json else told["url"])
    ends = f"ends by itself {_when(new)}, once nobody is in it" if new.until else "stays"
    say(f"Made the fork {name} of {new.source}; it {ends}. `invoke drop-fork {store.typed(name)}` ends it.")


def end(engine: Engine, name: str, *, yes: bool) -> None:
    """Drop a fork, after asking. Raises Refused when there is none of that name, or the user says no."""
    if not name:
        raise Refused("Which fork? Type `invoke drop-fork NAME`; `invoke forks` lists them.")
    with exchange.at_work(engine) as cluster:
        there = forks(cluster)
        found = next((each for each in there if each.name == name), None)
        if not found:
            known = f"There are: {', '.join(each.name for each in there)}" if there else "There is none"
            raise Refused(f"There is no fork {name!r}, so nothing was done. {known}.")
        spares.refuse_prepared(cluster, name)
        for line, _ in drop.what_goes(cluster, name):
            say(f"With it goes {line}.")
        its = snapshots_of(cluster, name)
        if its:
            say(f"With it go its snapshots: {', '.join(each.name for each in its)}.")
        used = f", with {counted(found.sessions, 'session')} on it" if found.sessions else ""
        confirm(f"Delete the fork {name} ({human(found.size)}{used})?", yes=yes)
        spares.take_over(cluster)
        for each in its:
            drop.clear_out(cluster, each)
        with cluster.alone(name), cluster.transaction():
            give_up_fork(cluster, name)
        spares.tell_and_tidy(engine, cluster)
    spares.go_on_in_background(engine)
    say(f"Deleted the fork {name}.")


def print_list(engine: Engine, *, as_json: bool) -> None:
    """Print the forks, the newest first; those whose time is over, and that nobody is in, end meanwhile."""
    endpoint = engine.endpoint()
    with administrator(engine, "invoke") as cluster:
        there = forks(cluster)
        found = [each for each in there if not each.is_over]
        if len(found) < len(there):
            spares.go_on_in_background(engine)
    if as_json:
        give(json.dumps([_told(each, endpoint) for each in found], indent=2))
    elif found:
        rows = [(each.name, ago(time.time() - each.made), human(each.size), each.source, _when(each),
                 str(each.sessions)) for each in found]  # fmt: skip
        print_columns(("FORK", "AGE", "SIZE", "OF", "ENDS", "SESSIONS"), rows)
    else:
        say("There is no fork. `invoke fork` makes one.")


def _told(each: Fork, endpoint: Endpoint | None) -> dict[str, Any]:
    def moment(seconds: float) -> str | None:
        return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds") if seconds else None

    url = replace(endpoint, database=each.name).url(masked=False) if endpoint else ""
    return {"name": each.name, "url": url, "of": each.source, "made": moment(each.made), "until": moment(each.until),
            "bytes": each.size, "sessions": each.sessions}  # fmt: skip


def _when(each: Fork) -> str:
    return f"{datetime.fromtimestamp(each.until):%Y-%m-%d %H:%M:%S}" if each.until else "never"


def _seconds(ttl: str) -> int:
    """Return a length of time in seconds, 0 for none given. Raises Refused."""
    found = _TTL.fullmatch(ttl)
    seconds = sum(int(n or 0) * each for n, each in zip(found.groups(), _UNITS.values(), strict=True)) if found else 0
    if ttl and not seconds:
        raise Refused(f"--ttl {ttl!r} is no length of time. Type as in 90m, 12h or 1d12h. Nothing was done.")
    return seconds


def _next(cluster: Cluster) -> str:
    base = cluster.database.encode()[: _LONGEST - 12].decode(errors="ignore")
    return next(name for n in range(1, 1_000_000) if cluster.oid(name := f"{base}_fork_{n}") is None)


def _checked(name: str) -> str:
    if not is_identifier(name) or name != name.strip():
        raise Refused(
            f"A fork cannot have that name: at most {_LONGEST} bytes of printable characters, without =, :// and white"
            " space at either end. Nothing was done."
        )
    if re.search(store.OURS, name):
        raise Refused(f"{name} is what our own copies are called. Nothing was done. Choose another name.")
    return name
