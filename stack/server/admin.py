"""The databases of a server, as its administrator sees them from beside: listed, renamed, and copied whole."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stack.ground.errors import StackError
from stack.ground.threads import beside
from stack.server import waits
from stack.server.address import Running
from stack.server.queries import INSIDE, SESSIONS, SETTINGS, SHUT, WRITES
from stack.server.session import LoginFailed, connect, connect_beside

if TYPE_CHECKING:
    import psycopg
    from psycopg import Connection
    from typing_extensions import LiteralString

PATIENCE = 5.0
"""Seconds in which ended sessions must be gone; CREATE DATABASE and RENAME wait as long for them."""
SMALL = 30_000_000
"""Bytes below which it is faster to write a copy to the server's log than to have the server write out all it has."""


class Cluster:
    """One session on a database that is not the user's; each statement commits by itself."""

    def __init__(self, running: Running, name: str) -> None:
        options = " ".join(f"-c {setting}" for setting in SETTINGS)
        ours = {**running.endpoint.options, "application_name": name, "options": options}
        self.database = self.configured = running.endpoint.database
        """The user's; the first of the two is a fork where that is what is worked on."""
        self.directory = running.directory
        self._beside = replace(running.endpoint, options=ours)
        self.connection = connect_beside(self._beside)

    def beside(self) -> Connection[Any]:
        """Log in once more, for what has to be asked or done while this session is busy. Raises LoginFailed."""
        return connect_beside(self._beside)

    def again(self) -> Cluster:
        """Return the same with a session of its own. Raises LoginFailed."""
        other = copy.copy(self)
        other.connection = self.beside()
        return other

    def within(self, database: str) -> Connection[Any]:
        """Log in to a database. Raises LoginFailed."""
        return connect(replace(self._beside, database=database))

    @property
    def version(self) -> str:
        """The server's version."""
        return (self.connection.info.parameter_status("server_version") or "").split()[0]

    def transaction(self) -> AbstractContextManager[object]:
        """All or nothing of what is run within."""
        return self.connection.transaction()

    # -- questions ----------------------------------------------------------------------------------------

    def rows(self, query: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self.connection.execute(query, values).fetchall()

    def oid(self, database: str) -> int | None:
        """Return a database's number, which it keeps when it is renamed; None when there is none of that name."""
        return next((row[0] for row in self.rows("SELECT oid FROM pg_database WHERE datname = %s", database)), None)

    def size(self, database: str) -> int:
        """Return a database's size in bytes."""
        return int(self.rows("SELECT pg_database_size(%s::name)", database)[0][0])

    def marks(self, database: str) -> tuple[str | None, int, bool]:
        """Return the comment on a database, its connection limit, and whether it is marked as a template."""
        query: LiteralString = (
            "SELECT shobj_description(oid, 'pg_database'), datconnlimit, datistemplate FROM pg_database"
            " WHERE datname = %s"
        )
        comment, limit, template = self.rows(query, database)[0]
        return comment, limit, template

    def transaction_id(self) -> int:
        """Return the number of the transaction that is under way. The server counts up, whatever a clock does."""
        return int(self.rows("SELECT pg_current_xact_id()::text")[0][0])

    def writes(self, oid: int | None) -> tuple[Any, ...]:
        """Return how many rows were ever written in a database: whoever has written to it since changes that."""
        return next(iter(self.rows(WRITES, oid)), ())

    def sessions(self, database: str) -> list[str]:
        """Return the programs, or else the users, of the sessions on a database."""
        query = f"SELECT application_name, usename {SESSIONS} AND usename IS NOT NULL"
        return [program or user for program, user in self.rows(query, self.oid(database))]

    # -- changes ------------------------------------------------------------------------------------------

    def run(self, statement: LiteralString, *names: str) -> None:
        """Run a statement, with the names of databases and roles put in for each {}."""
        from psycopg import sql

        self.connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def rename(self, database: str, name: str) -> None:
        """Give a database another name. With sessions on it that fails: see `alone`."""
        self.run("ALTER DATABASE {} RENAME TO {}", database, name)

    def allow(self, database: str, *, anybody: bool, limit: int, template: bool = False) -> None:
        """Allow sessions on a database or none, so many at once, and copies of it to everybody."""
        from psycopg import sql

        statement = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {} CONNECTION LIMIT {} IS_TEMPLATE {}")
        self.connection.execute(
            statement.format(sql.Identifier(database), *map(sql.Literal, (anybody, limit, template)))
        )

    def set_comment(self, database: str, text: str | None) -> None:
        """Put a comment on a database, or none."""
        from psycopg import sql

        statement = sql.SQL("COMMENT ON DATABASE {} IS {}")
        self.connection.execute(statement.format(sql.Identifier(database), sql.Literal(text)))

    def copy(self, source: str, target: str, *, limit: int, comment: str) -> None:
        """Copy a database with its owner, settings and grants. Nobody may enter the copy until `allow`.

        Ends the sessions on the source; new ones wait in the server meanwhile. The limit is on the copy from its first
        moment, the comment right after.
        """
        its: LiteralString = "SELECT pg_get_userbyid(datdba), pg_database_size(oid) FROM pg_database WHERE datname = %s"
        owner, size = self.rows(its, source)[0]
        # FILE_COPY writes each page once, and all that is unwritten in the server twice (checkpoints); the other way
        # writes each page to the log as well, and nothing else.
        statement: LiteralString = "CREATE DATABASE {} TEMPLATE {} OWNER {} ALLOW_CONNECTIONS false STRATEGY "
        strategy: LiteralString = "WAL_LOG" if size < SMALL else "FILE_COPY"
        with self.alone(source):
            self.run(f"{statement}{strategy} CONNECTION LIMIT {int(limit)}", target, source, owner)
        self._copy_rules(source, target, owner, comment)

    def make_like(self, source: str, target: str, *, limit: int, comment: str, rules: bool = True) -> None:
        """Make an empty database with the owner, encoding, locale and tablespace of another one, and with its `rules`.

        Those are its settings and grants. Nobody may enter it until `allow`.
        """
        from psycopg import sql

        query: LiteralString = (
            "SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding), spcname, datlocprovider::text, datcollate,"
            " datctype, datlocale, daticurules"
            " FROM pg_database AS d JOIN pg_tablespace AS t ON t.oid = dattablespace WHERE datname = %s"
        )
        owner, encoding, tablespace, provider, collate, ctype, locale, icu_rules = self.rows(query, source)[0]
        words: list[tuple[LiteralString, object]] = [
            ("ENCODING", encoding), ("LOCALE_PROVIDER", {"b": "builtin", "i": "icu"}.get(provider, "libc")),
            ("LC_COLLATE", collate), ("LC_CTYPE", ctype), ("BUILTIN_LOCALE", locale if provider == "b" else None),
            ("ICU_LOCALE", locale if provider == "i" else None), ("ICU_RULES", icu_rules), ("CONNECTION LIMIT", limit),
            ("ALLOW_CONNECTIONS", False),
        ]  # fmt: skip
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE template0 OWNER {} TABLESPACE {} ").format(
            *map(sql.Identifier, (target, owner, tablespace))
        )
        options = [
            sql.SQL("{} {}").format(sql.SQL(word), sql.Literal(value)) for word, value in words if value is not None
        ]
        self.connection.execute(statement + sql.SQL(" ").join(options))
        if rules:
            self._copy_rules(source, target, owner, comment)
        else:
            self.set_comment(target, comment)

    def _copy_rules(self, source: str, target: str, owner: str, comment: str) -> None:
        """Give a new database the settings and grants of another one, and a comment."""
        with self.transaction():
            # ALTER DATABASE … SET would write the same rows, but would read the values anew.
            self.connection.execute(
                "INSERT INTO pg_db_role_setting (setdatabase, setrole, setconfig) SELECT %s::oid, setrole, setconfig"
                " FROM pg_db_role_setting WHERE setdatabase = %s::oid",
                [self.oid(target), self.oid(source)],
            )
            self._copy_grants(source, target, owner)
            self.set_comment(target, comment)

    def _copy_grants(self, source: str, target: str, owner: str) -> None:
        granted = self.rows(
            "SELECT CASE WHEN grantee <> 0 THEN pg_get_userbyid(grantee) END, privilege_type, is_grantable"
            " FROM pg_database, aclexplode(datacl) WHERE datname = %s",
            source,
        )
        if granted:  # else they are the same already
            self.run("REVOKE ALL ON DATABASE {} FROM PUBLIC, {}", target, owner)
        kinds: dict[str, LiteralString] = {kind: kind for kind in ("CREATE", "TEMPORARY", "CONNECT")}
        for grantee, privilege, passes_on in granted:
            to: LiteralString = " ON DATABASE {} TO " + ("{}" if grantee else "PUBLIC")
            passing_on: LiteralString = " WITH GRANT OPTION" if passes_on else ""
            self.run("GRANT " + kinds[privilege] + to + passing_on, *filter(None, (target, grantee)))

    @contextmanager
    def alone(self, database: str) -> Iterator[None]:
        """End the sessions on a database, and those that come before the statement within has locked them out.

        The server itself keeps new sessions waiting until that statement's transaction ends. Nothing has to be
        undone when this process, or the server, dies. Raises StackError naming who did not end.
        """
        import psycopg

        oid = self.oid(database)
        self.end_sessions(oid)
        try:
            with beside(lambda done: self._keep_ending(oid, done)):
                yield
        except psycopg.errors.ObjectInUse as error:
            raise self._in_use(oid, error) from None

    def shut(self, database: str) -> None:
        """Let all logins wait before they read a name, and empty a database of sessions, where that can be had at once.

        To be called in a transaction, before nothing but renames. Who waits at the database itself has read its name,
        and is told that it does not exist; who waits here gets in.
        """
        import psycopg

        if (oid := self.oid(database)) is not None:
            with self.connection.transaction() as attempt:
                if not self._shut(oid):
                    raise psycopg.Rollback(attempt)

    def _shut(self, oid: int) -> bool:
        """Return False when it takes longer than all logins are to wait, as beside a pg_dump: it reads pg_database."""
        import psycopg

        # A process that is stopped in here keeps nobody out for longer.
        self.run("SET LOCAL idle_in_transaction_session_timeout = '5s'; SET LOCAL lock_timeout = '50ms'")
        try:
            with self.connection.transaction():
                self.run("LOCK TABLE pg_database IN ACCESS EXCLUSIVE MODE")
        except (psycopg.errors.LockNotAvailable, psycopg.errors.InsufficientPrivilege):
            return False
        self.run("SET LOCAL lock_timeout = '5s'")
        deadline = time.monotonic() + SHUT
        self.rows("SELECT pg_stat_clear_snapshot()")
        while left := self.rows(INSIDE, oid, oid):
            if time.monotonic() > deadline:
                return False
            self.rows("SELECT pg_stat_clear_snapshot()")
            self.rows(
                "SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", [pid for pid, ends in left if ends]
            )
            time.sleep(0.002)
        return True

    def end_sessions(self, oid: int | None) -> None:
        """Tell the sessions on a database to end, and wait `PATIENCE` seconds until they have."""
        deadline, teller = time.monotonic() + PATIENCE, waits.Teller()
        while self.rows(f"SELECT pg_terminate_backend(pid) {SESSIONS}", oid) and time.monotonic() < deadline:
            if time.monotonic() > deadline - PATIENCE / 2:
                teller.tell([f"{each}, to end." for each in waits.sessions_in(self.connection, oid)], patience=0)
            time.sleep(0.005)

    def _in_use(self, oid: int | None, error: psycopg.Error) -> StackError:
        sessions, prepared = waits.sessions_in(self.connection, oid), waits.prepared_in(self.connection, oid)
        who = "; ".join(map(str, [*sessions, *prepared]))
        cures = [each.end for each in prepared]
        if sessions:
            cures.append("`invoke restart postgres`, since it was told to end and did not")
        return StackError(
            f"PostgreSQL refused: {str(error).strip()}\nThe database is as it was. "
            + (f"In the way: {who}. Type {', '.join(cures)}; then type the command again." if who else "Try again.")
        )

    def _keep_ending(self, oid: int | None, done: threading.Event) -> None:
        """End those who were there before the statement had its lock, and nobody who was let in after it.

        A login waits for the same lock, and is seen here before it lets go of it. So whoever is seen, and then the
        statement seen to have its lock, was there before it; so was whoever keeps the statement from its lock.
        """
        import psycopg

        if done.wait(0.05):
            return
        ours = self.connection.info.backend_pid
        has_lock = (
            "EXISTS (SELECT FROM pg_locks WHERE pid = %s AND granted AND locktype = 'object' AND objid = %s::oid"
            " AND classid = 'pg_database'::regclass AND mode IN ('ShareLock', 'AccessExclusiveLock'))"
        )
        ending = (
            f"SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid"  # noqa: S608
            f" WHERE {has_lock} OR pid = ANY (pg_blocking_pids(%s))"
        )
        with suppress(psycopg.Error, LoginFailed), self.beside() as second:
            while not done.wait(0.05):
                there = [row[0] for row in second.execute(f"SELECT pid {SESSIONS}", [oid])]
                if there:
                    second.execute(ending, [there, ours, oid, ours])
