"""Which server it is: what tells one that runs from all others, and what our own would say to who comes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from stack import regular
from stack.process import StackError
from stack.service import Endpoint

LOCK = "postmaster.pid"
"""The server's own file: its process, its directory, when it began, its port, its shared memory."""
_FIRM = 7
"""Lines of it that stay as they are while the server runs."""
_APART = 60.0
"""Seconds between the beginnings of two servers; one writes its file long before it calls itself started."""


class Identity(NamedTuple):
    """What tells one running server from all others, those on a copy of its files among them."""

    system: int = 0
    """The system identifier, which a copy of the files has too; 0 when it was not seen."""
    lock: str = ""
    """What stands in postmaster.pid; nothing when it was not seen."""
    began: float = 0.0
    """When it began, in seconds since 1970; 0 when it was not seen."""

    def is_of(self, other: Identity) -> bool:
        """Return whether two looks were at one server; False when they saw too little to tell."""
        mine, its = (each.lock.split("\n")[:_FIRM] for each in (self, other))
        if self.lock and other.lock:
            return [line.strip() for line in mine] == [line.strip() for line in its]
        at_once = abs(self.began - other.began) < _APART if self.began and other.began else True
        return self.system == other.system != 0 and at_once


def told(lock: str, system: int = 0) -> Identity:
    """Return the identity of the server that has written a postmaster.pid."""
    began = lock.splitlines()[2:3]
    return Identity(system, lock, float(began[0]) if began and began[0].strip().isdigit() else 0.0)


def seen(directory: Path) -> Identity:
    """Return that of the server which runs on a directory. Raises StackError when its files cannot be read."""
    try:
        with regular.opened(directory, "global/pg_control") as control:  # which begins with the identifier
            system = int.from_bytes(control.read(8), sys.byteorder)
        return told(regular.text(directory, LOCK), system)
    except OSError as error:
        raise StackError(f"{error.filename} cannot be read: {error.strerror}.", cure="Type `invoke doctor`.") from None


# -- what our own server would say ----------------------------------------------------------------------------


def would_say(said: str, endpoint: Endpoint, ask: Callable[[str], str | None]) -> bool | None:
    """Return whether our own server refuses who comes with the settings in such words; None when nobody can tell.

    `ask` puts a query to it from inside, as a superuser.
    """
    kinds = [judge for words, judge in _JUDGES if re.search(words, said)]
    if not kinds or "subdirectory" in said or not (answer := ask(_query(endpoint))):
        return None
    return kinds[0](json.loads(answer), endpoint)


def _query(endpoint: Endpoint) -> str:
    from psycopg import sql

    query = sql.SQL("""SELECT json_build_object(
        'role', (SELECT json_build_object('logs_in', rolcanlogin, 'verifier', rolpassword,
                 'valid', now() < coalesce(rolvaliduntil, 'infinity')) FROM pg_authid WHERE rolname = {}),
        'open', (SELECT datallowconn FROM pg_database WHERE datname = {}),
        'rules', (SELECT coalesce(json_agg(json_build_array(type, database, user_name, address, auth_method)), '[]')
                  FROM pg_hba_file_rules WHERE type LIKE 'host%' AND error IS NULL),
        'taken', (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
        'limit', current_setting('max_connections')::int);""")
    return query.format(sql.Literal(endpoint.user), sql.Literal(endpoint.database)).as_string(None)


def _wrong_password(known: dict[str, Any], endpoint: Endpoint) -> bool:
    role = known["role"]
    return not (role and role["valid"] and is_password(role["verifier"] or "", endpoint.password))


def _lets_everybody_in(known: dict[str, Any]) -> bool:
    return any(rule[:4] == ["host", ["all"], ["all"], "all"] and rule[4] != "reject" for rule in known["rules"])


_JUDGES: list[tuple[str, Callable[[dict[str, Any], Endpoint], bool]]] = [
    (r"password authentication failed", _wrong_password),
    (r'role ".*" does not exist', lambda known, _: known["role"] is None),
    (r'database ".*" does not exist', lambda known, _: known["open"] is None),
    (r'role ".*" is not permitted to log in', lambda known, _: not known["role"] or not known["role"]["logs_in"]),
    (r"is not currently accepting connections", lambda known, _: not known["open"]),
    (r"no pg_hba\.conf entry", lambda known, _: not _lets_everybody_in(known)),
    (r"pg_hba\.conf rejects", lambda known, _: any(rule[4] == "reject" for rule in known["rules"])),
    (r"sorry, too many clients|remaining connection slots", lambda known, _: known["taken"] * 2 > known["limit"]),
]


def is_password(verifier: str, password: str) -> bool:
    """Return whether a SCRAM verifier is that of a password (RFC 5803)."""
    found = re.fullmatch(r"SCRAM-SHA-256\$(\d+):([^$]+)\$([^:]+):.+", verifier)
    if not found:
        return False
    prepared = unicodedata.normalize("NFKC", password).encode()
    salted = hashlib.pbkdf2_hmac("sha256", prepared, base64.b64decode(found[2]), int(found[1]))
    key = hmac.digest(salted, b"Client Key", "sha256")
    return hmac.compare_digest(hashlib.sha256(key).digest(), base64.b64decode(found[3]))
