"""Whether the server that answers is the one that this stack runs."""

from __future__ import annotations

import base64
import json
import re
import sys
import time
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stack.ground import ports, regular
from stack.ground.errors import StackError
from stack.server.address import Endpoint

if TYPE_CHECKING:
    from psycopg import Connection

LOCK = "postmaster.pid"
"""The server's own file: its process, its directory, when it began, its port, its shared memory."""
_FIRM = 7
"""Lines of it that stay as they are while the server runs."""
_APART = 60.0
"""Seconds between the beginnings of two servers; one writes its file long before it calls itself started."""
APART = (
    "Stop that server, then type `invoke down` and `invoke up`; or give this stack ports of its own: `invoke down`,"
    " `invoke init --isolated`, `invoke up`."
)
"""What to do about a server that answers in the place of ours."""


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


def is_password(verifier: str, password: str) -> bool:
    """Return whether a SCRAM verifier is that of a password (RFC 5803)."""
    found = re.fullmatch(r"SCRAM-SHA-256\$(\d+):([^$]+)\$([^:]+):.+", verifier)
    if not found:
        return False
    import hashlib  # a millisecond that is spent when a login has failed
    import hmac

    prepared = unicodedata.normalize("NFKC", password).encode()
    salted = hashlib.pbkdf2_hmac("sha256", prepared, base64.b64decode(found[2]), int(found[1]))
    key = hmac.digest(salted, b"Client Key", "sha256")
    return hmac.compare_digest(hashlib.sha256(key).digest(), base64.b64decode(found[3]))


class Stranger(StackError):
    """Another server than this stack's answers at its address."""


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
        ((lock,),) = connection.execute(f"SELECT pg_read_file('{LOCK}')".encode()) if may_read else [("",)]
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
