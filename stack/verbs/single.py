"""Files brought into the database of a server that is run elsewhere, where none can be made aside: one transaction."""

from __future__ import annotations

import io
import re
import secrets
import time
from collections.abc import Callable

from stack.engines.base import Engine
from stack.ground.errors import StackError
from stack.ground.run import PIPE, look
from stack.ground.talk import progress, say
from stack.ground.threads import begin
from stack.sql.script import Script
from stack.sql.sources import HEAD, Source
from stack.verbs.causes import known
from stack.verbs.feed import Piped, Readable, Reader, Tape, Unfit, printed, session, words
from stack.verbs.whole import AS_PSQL, CUT, IN_THE_MIDDLE, SWALLOWED, How, Lines, archive_contents, errors

PATIENCE = 30.0
"""Seconds that the server may take to commit once the connection has broken."""
_OR_ELSE = f"On a server that is run elsewhere a file is applied in one transaction. {AS_PSQL}"
# A pooler gives the session to the next client: what the file has set goes, and so does what we have made.
_WHOLE = (
    SWALLOWED
    + b"""
SET SESSION AUTHORIZATION DEFAULT;
SELECT set_config('stack.whole', 'yes', true) AS stack_whole, pg_current_xact_id() AS stack_xid,
    pg_temp.stack_timeline() FROM pg_temp.stack_whole
\\gset
\\echo %b :stack_xid :stack_timeline
SET CONSTRAINTS pg_temp.stack_whole IMMEDIATE;
DROP TABLE pg_temp.stack_whole;
DROP FUNCTION pg_temp.stack_whole(), pg_temp.stack_timeline();
RESET ALL;
COMMIT;
\\echo %b :ERROR
"""
)
STANDBY = (
    "The server that DATABASE_URL names is a standby, which can only be read, so nothing was done. Name the primary"
    " there; or all of them, and libpq finds it: `postgresql://user@host1,host2/database?target_session_attrs=read-write`."
)
# After a COPY psql 17.12 reads no line behind an empty statement, so a semicolon goes only where one is missing.
_FINISHED = re.compile(rb"(?:;|^\\[^\n]*|\A)(?:\s|--[^\n]*(?:\n|\Z))*\Z", re.MULTILINE)
_COMMIT = re.compile(rb"(?<=[;\s])commit(\s+(work|transaction))?\s*;(\s|--[^\n]*(?:\n|\Z))*\Z", re.IGNORECASE)
# pg_dump writes it for every extension, and who loads it may do so for their own alone.
_OF_EXTENSION = re.compile(
    rb"(\n-- Name: EXTENSION [^\n]*; Type: COMMENT; [^\n]*\n--\n\n)(COMMENT ON EXTENSION [^\n;]+ IS '(?:[^']|'')*';)\n"
)
_AS_FAR_AS_ALLOWED = (
    rb"\1DO $stack_comment$ BEGIN \2 EXCEPTION WHEN insufficient_privilege THEN NULL; END $stack_comment$;\n"
)
_LARGE_OBJECT = re.compile(rb"(\nSELECT pg_catalog\.lo_close\(0\);\n\n)COMMIT;")


def fill(engine: Engine, reader: Reader, source: Source, how: How, *, empty: bool) -> list[str]:
    """Bring a file into the database, which is emptied first with `empty`, in one transaction.

    Returns what is to be said. Raises StackError with the client's first words; nothing has changed then.
    """
    with session(engine) as name, progress("Loading", source.size) as show:
        reader.show = show
        if not source.is_archive:
            script = Script(reader, into="", name="", inline=False, **how._asdict())
            why = _Transaction(engine, name, reader, empty=empty).run(script, script.where)
        else:
            why = _restore(engine, reader, name, empty=empty)
        if why:
            raise Unfit(known(engine, why))
    return []


def _restore(engine: Engine, reader: Reader, name: str, *, empty: bool) -> str:
    tape = Tape(reader)
    roles = archive_contents(engine.client, tape).roles
    others = _not_ours(engine, roles)
    options = ["--no-owner"] * bool(others)
    if others:
        whose = (engine.endpoint() or engine.settings).user
        say(f"Owners are not kept, since {whose} may not act for {', '.join(others)} there: {whose} owns it all.")
    said = ""
    # pg_restore turns it into SQL, which comes into the transaction of what goes before it.
    with Piped(engine.client("pg_restore", "-f", "-", *options, stdin=True), PIPE) as restore:

        def work() -> None:
            restore.feed(tape.rest())
            restore.close()

        thread = begin(work)

        def ended_well() -> bool:
            nonlocal said
            thread.join()
            code = restore.end()
            said = words(restore, code) if code else ""
            return not said

        def where(line: int) -> str:
            return f"line {line} of what pg_restore makes of it"

        why = _Transaction(engine, name, reader, empty=empty).run(restore.output, where, ended_well)
        restore.output.close()  # it may still have something to say, which nobody wants
        thread.join()
    return said or why


class _Transaction:
    """A psql whose transaction is committed only when it has read all."""

    def __init__(self, engine: Engine, name: str, reader: Reader, *, empty: bool) -> None:
        options = ("-qX", "-v", "ON_ERROR_STOP=1", "-v", "AUTOCOMMIT=off", *reader.options, "-f", "-")
        self._engine, self._reader = engine, reader
        self._command = engine.client("psql", *options, stdin=True, name=name)
        self._before = _BEGIN + EMPTY * empty
        self._token = f"stack{secrets.token_hex(12)}"

    def run(self, script: Readable, where: Callable[[int], str], good: Callable[[], bool] = lambda: True) -> str:
        """Give psql a script, and commit when that is `good`; return what went wrong."""
        with Piped(self._command, PIPE) as psql:
            answer = printed(psql)
            psql.feed(io.BytesIO(self._before))
            statements = _Statements(script)
            lines = Lines(statements)
            alive = psql.feed(lines)
            cut = alive and self._reader.lacks_its_end
            if alive and good() and not cut:
                token = self._token.encode()
                psql.give((b"" if _FINISHED.search(statements.tail) else b"\n;") + _WHOLE.replace(b"%b", token))
            code = psql.end()
            out = answer().decode(errors="replace")
            count, said, last = errors(psql.said(), lines.number)
            if cut and (not count or last > lines.number):
                return CUT
            if f"{self._token} false" in out or _committed(self._engine, self._token, out):
                return ""
            if "cannot set transaction read-write mode during recovery" in said:
                raise StackError(STANDBY)
            said = re.sub(r"psql:<stdin>:(\d+): ", lambda found: f"{where(int(found[1]))}: ", said)
            return _why(said, swallowed=last > lines.number and self._token not in out) or words(psql, code)


def _committed(engine: Engine, token: str, out: str) -> bool:
    """Return whether the server has committed, though psql could not say so.

    Raises StackError when that cannot be known: the server does not answer, is still at it after `PATIENCE`, or is
    another now, where that transaction's number is another's.
    """
    if not (found := re.search(rf"{token} (\d+) (\w*)", out)):
        return False
    same = f"NOT pg_is_in_recovery() AND {_TIMELINE} = '{found[2]}'" if found[2] else "true"
    query = f"SELECT CASE WHEN {same} THEN pg_xact_status('{found[1]}') END"
    deadline = time.monotonic() + PATIENCE
    while True:
        asked = look(*engine.client("psql", "-XAtqc", query))
        status = asked.stdout.strip()
        if asked.returncode or status != "in progress" or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    if status in ("committed", "aborted"):
        return status == "committed"
    why = asked.stderr.strip() or ("it is still at it." if status else "another server has taken over since.")
    raise StackError(
        f"The connection broke when the server was told to commit, and whether it did cannot be asked: {why} Look"
        " whether the rows are there when it answers again."
    )


def _why(said: str, *, swallowed: bool) -> str:
    if "COMMIT in the middle (stack_whole)" in said:
        return f"{said.partition('psql:')[0].partition(': ')[0]} says COMMIT, and the file goes on. {_OR_ELSE}"
    if '"pg_temp.stack_whole" does not exist' in said:
        return f"the file says ROLLBACK, or goes to another database, so nothing of it would stay. {_OR_ELSE}"
    if "cannot run inside a transaction block" in said or "cannot be executed from a function" in said:
        return f"{said}\n{_OR_ELSE}"
    return IN_THE_MIDDLE if swallowed else said


def _not_ours(engine: Engine, roles: list[str]) -> list[str]:
    """Return those of some roles that are not there, or that we may not become."""
    literals = ", ".join("'" + each.replace("'", "''") + "'" for each in roles)
    query = (
        f"SELECT name FROM unnest(ARRAY[{literals}]::text[]) AS name WHERE NOT EXISTS"  # noqa: S608
        " (SELECT FROM pg_roles WHERE rolname = name AND pg_has_role(oid, 'MEMBER'))"
    )
    asked = look(*engine.client("psql", "-XAtqc", query))
    if asked.returncode:
        raise StackError(known(engine, asked.stderr.strip()))
    return asked.stdout.splitlines()


class _Statements:
    """SQL that leaves the transaction to us: without its last COMMIT, and without those of pg_dump's large objects."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._kept = b"\n"
        """One byte that was given already, and those of which it is not known yet whether they are the last."""
        self.tail = b""
        """The last bytes that were given."""

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        while chunk := self._source.read(size):
            self._kept = _LARGE_OBJECT.sub(rb"\1", self._kept + chunk)
            self._kept = _OF_EXTENSION.sub(_AS_FAR_AS_ALLOWED, self._kept)
            if len(self._kept) > 2 * HEAD:
                given, self._kept = self._kept[1:-HEAD], self._kept[-HEAD - 1 :]
                return given
        last, self._kept = _COMMIT.sub(b"", self._kept)[1:], b""
        self.tail = last or self.tail
        return last


def _one_line(statements: bytes) -> bytes:
    """Return statements for the first line of a file, so that psql counts its lines as the user does."""
    return b" ".join(statements.split()) + b" "


# It changes when a standby takes over. Not every server that is lent says it.
_TIMELINE = "substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"
# A file may say COMMIT or ROLLBACK itself, and psql goes on. The row that is written here lets nobody commit before
# `_WHOLE`, and what comes after a ROLLBACK finds no row.
_BEGIN = _one_line(
    b"""
    BEGIN READ WRITE; SET LOCAL client_min_messages = warning;
    CREATE FUNCTION pg_temp.stack_whole() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN
        IF current_setting(''stack.whole'', true) = ''yes'' THEN RETURN NULL; END IF;
        RAISE ''COMMIT in the middle (stack_whole)''; END';
    CREATE TEMPORARY TABLE stack_whole ();
    CREATE CONSTRAINT TRIGGER stack_whole AFTER INSERT ON pg_temp.stack_whole DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION pg_temp.stack_whole();
    INSERT INTO pg_temp.stack_whole DEFAULT VALUES;
    CREATE FUNCTION pg_temp.stack_timeline() RETURNS text LANGUAGE plpgsql AS 'BEGIN
        RETURN %b; EXCEPTION WHEN OTHERS THEN RETURN ''''; END';
"""
    % _TIMELINE.encode()
)
# What is owned by somebody whom we may not act for, as an extension of the superuser's, stays.
EMPTY = _one_line(b"""
    DO $$ DECLARE each record; BEGIN
        FOR each IN
            SELECT format('PUBLICATION IF EXISTS %I', pubname) AS what FROM pg_publication
                WHERE pg_has_role(pubowner, 'USAGE')
            UNION ALL SELECT format('EVENT TRIGGER IF EXISTS %I', evtname) FROM pg_event_trigger
                WHERE pg_has_role(evtowner, 'USAGE')
            UNION ALL SELECT format('EXTENSION IF EXISTS %I', extname) FROM pg_extension
                WHERE extname <> 'plpgsql' AND pg_has_role(extowner, 'USAGE')
            UNION ALL SELECT format('SERVER IF EXISTS %I', srvname) FROM pg_foreign_server
                WHERE pg_has_role(srvowner, 'USAGE')
        LOOP EXECUTE format('DROP %s CASCADE', each.what); END LOOP;
        FOR each IN SELECT nspname AS what FROM pg_namespace AS n
            WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND pg_has_role(nspowner, 'USAGE')
              AND NOT EXISTS (SELECT FROM pg_extension WHERE extnamespace = n.oid)
        LOOP EXECUTE format('DROP SCHEMA %I CASCADE', each.what); END LOOP;
        FOR each IN
            SELECT format(CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
                          WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END
                          || ' IF EXISTS %I.%I', nspname, relname) AS what
                FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
                WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c') AND pg_has_role(relowner, 'USAGE')
                  AND nspname !~ '^pg_' AND nspname <> 'information_schema' AND NOT EXISTS
                      (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e')
            UNION ALL SELECT format('ROUTINE IF EXISTS %s', p.oid::regprocedure)
                FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = pronamespace
                WHERE pg_has_role(proowner, 'USAGE') AND nspname !~ '^pg_' AND nspname <> 'information_schema'
                  AND NOT EXISTS
                      (SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'e')
            UNION ALL SELECT format('TYPE IF EXISTS %I.%I', nspname, typname)
                FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = typnamespace
                WHERE typtype IN ('d', 'e', 'r') AND pg_has_role(typowner, 'USAGE')
                  AND nspname !~ '^pg_' AND nspname <> 'information_schema' AND NOT EXISTS
                      (SELECT FROM pg_depend WHERE classid = 'pg_type'::regclass AND objid = t.oid AND deptype = 'e')
        LOOP EXECUTE format('DROP %s CASCADE', each.what); END LOOP;
        PERFORM lo_unlink(oid) FROM pg_largeobject_metadata WHERE pg_has_role(lomowner, 'USAGE');
        IF to_regnamespace('public') IS NULL THEN
            CREATE SCHEMA public AUTHORIZATION pg_database_owner;
            GRANT USAGE ON SCHEMA public TO PUBLIC;
        END IF;
    END $$;
""")
