"""What goes into a database from files, and out of it: seed, dump, load."""

from __future__ import annotations

import io
import itertools
import os
import re
import select
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from stack import blocked, files, formats
from stack.engine import Engine
from stack.postgres import interruptible
from stack.process import Refused, StackError, begin, environment, look, not_started
from stack.ready import LoginFailed, connect
from stack.refusals import known, told
from stack.service import Command
from stack.sources import CHUNK, HEAD, Source, opened, seeds
from stack.talk import confirm, counted, human, progress, say

if TYPE_CHECKING:
    from psycopg import Connection
    from typing_extensions import Self


class Readable(Protocol):
    """What bytes come from."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, empty at the end."""


def seed(engine: Engine) -> list[Path]:
    """Apply seed/*.sql in name order, each file in one transaction, and return them.

    Raises StackError with psql's words at the first file that fails; that file leaves nothing behind.
    """
    files, others = seeds(engine.root / "seed")
    if others:
        say(f"Passed over in seed/, whose files end in .sql, .sql.gz, .zst, .xz, .bz2 or .zip: {', '.join(others)}.")
    for file in files:
        say(f"seed/{file.name}")
        with opened(str(file)) as source:
            why = _apply(engine, b"", source)
        if why:
            raise StackError(
                f"seed/{file.name} failed, and nothing of it was kept; the files before it were applied."
                f" psql said:\n{known(engine, why, 'Mend the file, then type `invoke seed`.')}"
            )
    return files


def dump(engine: Engine, file: str) -> None:
    """Write the database to `file`, as SQL or as an archive by the ending of its name, with the server's own pg_dump.

    `-` is stdout, which gets an archive; nothing stands for a dated one in backups/. The file appears when it is
    complete and on the disk. Raises StackError when pg_dump fails, and Refused for a terminal, a directory, a place
    among the stack's data, and an ending that would not be true.
    """
    folder = engine.root / "backups"
    _refuse_among_data(engine.root, file)
    written = formats.format_of(file)
    with _session(engine) as name:
        command = engine.client("pg_dump", *written.options, name=name)
        before = written.pack(formats.preamble(_bare(engine, name))) if written.pack else b""
        where = {"-": "stdout", "": str(folder)}.get(file, file)

        def fill(output: IO[bytes]) -> None:
            output.write(before)
            output.flush()
            _dump_into(engine, output, command, where)

        try:
            if file and not files.write("/dev/stdout" if file == "-" else file, fill):
                if file != "-":
                    say(f"Wrote the database to {file}.")
                return
            made = Path(file) if file else files.add(folder, _dated(), fill)
        except IsADirectoryError:
            inside = files.typed(Path(file, "my.dump"))
            raise Refused(
                f"{file} is a directory, and a dump is a file. Nothing was done. Name one: `invoke dump {inside}`."
            ) from None
        except OSError as error:
            raise StackError(
                f"{where} cannot be written: {error.strerror}. Choose another place: invoke dump FILE"
            ) from None
    say(f"Wrote {made} ({human(made.stat().st_size)}). `invoke load {files.typed(made)}` brings it back.")


def _bare(engine: Engine, name: str) -> bytes:
    """Return an archive of the database without anything in it. Raises StackError when pg_dump fails."""
    argv, env = engine.client(*formats.BARE, name=name)
    done = subprocess.run(argv, check=False, env=environment(env), stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise StackError(f"Nothing was written: pg_dump failed. It said:\n{known(engine, why)}")
    return done.stdout


def _refuse_among_data(root: Path, file: str) -> None:
    data, target = Path(os.path.realpath(root / "data")), Path(os.path.realpath(file))
    if file and data in target.parents and (target.parent != data or target.name.startswith(".")):
        raise Refused(
            f"{file} is among the files that the stack keeps in {data}, which servers read and `invoke reset-data`"
            " deletes. Nothing was done. Choose another place: invoke dump FILE"
        )


def _dated() -> Iterator[str]:
    now = f"{datetime.now():%Y-%m-%d_%H%M%S}"
    yield f"{now}.dump"
    yield from (f"{now}-{n}.dump" for n in itertools.count(2))


def _dump_into(engine: Engine, output: IO[bytes], command: Command, where: str) -> None:
    """Run pg_dump into a file or whatever was opened. Raises StackError with what it said when it fails."""
    if output.isatty():
        raise Refused("A dump is binary and that is a terminal. Name a file, or redirect: invoke dump - > my.dump")
    said = b""
    ours = output.readable()  # a file of which nobody else knows yet, unlike a pipe or what the shell has opened
    with progress("Dumping") if ours else nullcontext(lambda _: None) as show:
        try:
            child = subprocess.Popen(
                command.argv, env=environment(command.env), stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.PIPE,
            )  # fmt: skip
        except OSError as error:
            raise not_started(command.argv[0], error) from None
        words: IO[bytes] = child.stderr  # type: ignore[assignment]
        try:
            while True:  # its stderr ends when it does
                if select.select([words], [], [], 0.2)[0]:
                    if not (piece := os.read(words.fileno(), CHUNK)):
                        break
                    said += piece
                show(os.fstat(output.fileno()).st_size)
        except BaseException:
            child.kill()
            raise
        finally:
            child.wait()
            words.close()
    if child.returncode == -signal.SIGPIPE:
        raise StackError("Nobody reads on, and what was read is no whole dump.")
    if child.returncode:
        ended = f"exit code {child.returncode}" if child.returncode > 0 else signal.strsignal(-child.returncode)
        why = said.decode(errors="replace").strip() or f"{ended}"
        why = why.replace("/dev/stdout", where)  # as Docker's client calls what it was given
        kept = "Nothing was written" if ours else "What was written is no whole dump"
        raise StackError(f"{kept}: pg_dump failed. It said:\n{known(engine, why)}")


@contextmanager
def _session(engine: Engine) -> Iterator[str]:
    """Give a name for a session that ends when this process is interrupted, and tell on whom it waits."""
    with interruptible(engine) as name, blocked.watched(lambda: _beside(engine), program=name):
        yield name


def _beside(engine: Engine) -> Connection[Any]:
    """Log in once more. Raises LoginFailed."""
    try:
        endpoint = engine.endpoint() if engine.name == "external" else engine.database().endpoint
    except StackError as error:
        raise LoginFailed(error.what) from None
    if not endpoint:
        raise LoginFailed("There is no database.")
    return connect(endpoint)


def load(engine: Engine, file: str, *, clean: bool, yes: bool, encoding: str = "") -> None:
    """Bring a dump or a file of SQL, compressed or not, into the database: all or nothing. `-` is stdin.

    What it is, is told by its first bytes. A database that is not empty is refused; `clean` empties it in the same
    transaction, after asking. Raises StackError when it fails; the database is then as it was.
    """
    if not file:
        raise Refused("Which file? Type `invoke load FILE`, with a dump or a file of SQL, or - for stdin.")
    with opened(file, encoding) as source:
        if not source.head:
            raise Refused(f"{source.name} is empty: it is no dump and no SQL. Nothing was done.")
        found, major = _contents(engine)
        if int(source.server.partition(".")[0] or 0) > major:
            raise Refused(
                f"{source.name} was dumped from PostgreSQL {source.server}, and this server is {major}: a dump does not"
                " go back to an older one. Nothing was changed. Load it into a server of that version, or a newer one."
            )
        if found and not clean:
            raise Refused(
                f"The database is not empty: {counted(found, 'object')} (tables, views, sequences, large objects)."
                " Nothing was loaded. Add --clean to delete them in the same step, or begin with an empty database:"
                " `invoke reset-data`, `invoke up`."
            )
        if found:
            what = f"{counted(found, 'object')} (tables, views, sequences, large objects)"
            confirm(f"Delete {what} in the database, and load {file}?", yes=yes)
        own = "\n".join(source.statements(':"DBNAME"')).encode(errors="surrogateescape")
        why = _apply(engine, _EMPTY if found else b"", source)
    if why:
        raise StackError(
            f"{source.name} was not loaded, and the database is as it was. The reason:\n{known(engine, why)}"
        )
    say(f"Loaded {source.name}.")
    if own and (said := _settle(engine, own)):
        say(f"Not all settings and grants of the database itself came along. psql said:\n{said}")


def _settle(engine: Engine, statements: bytes) -> str:
    """Run what is about the database itself, each statement by itself; return what psql said of those that failed."""
    psql = _Piped(engine.client("psql", "-qX", "-v", "ON_ERROR_STOP=0", "-f", "-", stdin=True))
    with psql:
        psql.feed(io.BytesIO(statements))
        psql.end()
        return psql.said()


def _apply(engine: Engine, before: bytes, source: Source) -> str:
    """Bring a file into the database after the statements `before`, and return what went wrong.

    Only the COMMIT that comes after the last byte makes it true: whatever breaks earlier changes nothing.
    """
    with _session(engine) as name, progress("Loading", source.size) as show:
        reader = Reader(source, show)
        if not source.is_archive:
            return _send_sql(engine, before, reader, name)
        return _restore_after(engine, before, reader, name) if before else _restore(engine, reader, name)


def _restore(engine: Engine, source: Reader, name: str) -> str:
    """Let pg_restore do it all, which is a tenth faster."""
    command = engine.client("pg_restore", "--single-transaction", "--no-owner", stdin=True, name=name)
    with _Piped(command) as restore:
        restore.feed(source)
        return restore.end()


def _restore_after(engine: Engine, before: bytes, source: Reader, name: str) -> str:
    """Let pg_restore turn an archive into SQL, which comes into the transaction of what goes before it."""
    command = engine.client("pg_restore", "-f", "-", "--no-owner", stdin=True)
    with _psql(engine, before, name) as psql, _Piped(command, subprocess.PIPE) as restore:
        with restore.fed(source):
            tail = psql.feed(_Statements(restore.output))
        return psql.commit(tail, but=restore.end())


def _send_sql(engine: Engine, before: bytes, source: Reader, name: str) -> str:
    with _psql(engine, before, name, source.options) as psql:
        tail = psql.feed(_Statements(source))
        cut = b"PostgreSQL database dump\n" in source.head and b"dump complete" not in tail
        said = psql.commit(tail, but="the file ends in the middle: the last line of a dump is missing." if cut else "")
        return next((found.expand(why) for words, why in _NOT_WHOLE if (found := words.search(said))), said)


def _psql(engine: Engine, before: bytes, name: str, more: tuple[str, ...] = ()) -> _Piped:
    """Start psql in a transaction that only `_Piped.commit` can commit."""
    options = ("-qX", "-v", "ON_ERROR_STOP=1", "-v", "AUTOCOMMIT=off", *more, "-f", "-")
    psql = _Piped(engine.client("psql", *options, stdin=True, name=name))
    psql.feed(io.BytesIO(_OPEN + _AFTER * (engine.settings.engine != "external") + _BEGIN + before))
    return psql


class Reader:
    """A file that tells how much of it was read."""

    def __init__(self, source: Source, show: Callable[[int], None]) -> None:
        self._source, self._show = source, show
        self.head, self.options = source.head, source.options

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        self._show(self._source.done)
        return self._source.read(size)


class _Statements:
    """SQL that leaves the transaction to us: without its last COMMIT, and without those of pg_dump's large objects."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._kept = b"\n"
        """One byte that was given already, and those of which it is not known yet whether they are the last."""

    def read(self, size: int) -> bytes:
        """Return the next bytes. Raises StackError when they lead to another database."""
        while chunk := self._source.read(size):
            self._kept = _LARGE_OBJECT.sub(rb"\1", self._kept + chunk)
            if found := _LEAVES.search(self._kept):
                raise Refused(
                    f"The file holds the line {found[1].decode()}, which leads to another database or past an error,"
                    " and it can only be applied whole or not at all. Nothing of it was applied. Take that line out, or"
                    " run the file as it is: `invoke psql -f FILE`."
                )
            if len(self._kept) > 2 * HEAD:
                given, self._kept = self._kept[1:-HEAD], self._kept[-HEAD - 1 :]
                return given
        last, self._kept = _COMMIT.sub(b"", self._kept)[1:], b""
        return last


class _Piped:
    """A client program between two pipes; what it says on stderr is kept."""

    def __init__(self, command: Command, output: int = subprocess.DEVNULL) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed on leaving
        try:
            self._child = subprocess.Popen(
                command.argv,
                env=environment(command.env),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=self._said,
            )
        except OSError as error:
            self._said.close()
            raise not_started(command.argv[0], error) from None
        self._input: IO[bytes] = self._child.stdin  # type: ignore[assignment]
        self.output: IO[bytes] = self._child.stdout  # type: ignore[assignment]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()  # it has ended, unless something else has gone wrong
        self._child.wait()
        with suppress(BrokenPipeError):
            self._input.close()
        if self.output:
            self.output.close()
        self._said.close()

    def feed(self, source: Readable) -> bytes:
        """Give it all of `source`, as far as it takes it; return the last bytes."""
        tail = b""
        while chunk := source.read(CHUNK):
            tail = (tail + chunk)[-HEAD:]
            try:
                self._input.write(chunk)
            except BrokenPipeError:  # it has ended, and says why
                break
        return tail

    @contextmanager
    def fed(self, source: Readable) -> Iterator[None]:
        """Give it all of `source` while its output is read."""
        failed: list[StackError] = []

        def work() -> None:
            try:
                self.feed(source)
            except StackError as error:
                failed.append(error)
                self._child.kill()  # at the end of half a tar it would wait for ever
            with suppress(BrokenPipeError):
                self._input.close()

        thread = begin(work)
        yield
        thread.join()
        if failed:
            raise failed[0]

    def commit(self, tail: bytes, *, but: str) -> str:
        """Make what ends with `tail` true, unless there is something against it, and return what went wrong."""
        if not but:
            self.feed(io.BytesIO(_WHOLE if _FINISHED.search(tail) else b"\n;" + _WHOLE))
        said = self.end()
        return but or said

    def end(self) -> str:
        """Close its input, wait for it, and return what it said if it failed."""
        with suppress(BrokenPipeError):
            self._input.close()
        if self.output:
            self.output.read()
        code = self._child.wait()
        return (self.said() or f"exit code {code}") if code else ""

    def said(self) -> str:
        """Return what it has said on stderr."""
        self._said.seek(0)
        return self._said.read().decode(errors="replace").strip()


def _one_line(statements: bytes) -> bytes:
    """Return statements for the first line of a file, so that psql counts its lines as the user does."""
    return b" ".join(statements.split()) + b" "


# A file may say COMMIT or ROLLBACK itself, and psql goes on. The row that is written here lets nobody commit before
# `_WHOLE`, and what comes after a ROLLBACK may not write.
_BEGIN = _one_line(b"""
    BEGIN READ WRITE; SET LOCAL client_min_messages = warning;
    CREATE FUNCTION pg_temp.stack_whole() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN
        IF current_setting(''stack.whole'', true) = ''yes'' THEN RETURN NULL; END IF;
        RAISE ''COMMIT in the middle (stack_whole)''; END';
    CREATE TEMPORARY TABLE stack_whole ();
    CREATE CONSTRAINT TRIGGER stack_whole AFTER INSERT ON pg_temp.stack_whole DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION pg_temp.stack_whole();
    INSERT INTO pg_temp.stack_whole DEFAULT VALUES;
""")
# psql ends with an error when it does not come to the \endif of `_WHOLE`, as when a COPY swallows it.
_OPEN = rb"\if true \\ "
# Elsewhere a pooler would hand this on to other sessions.
_AFTER = b"SET default_transaction_read_only = on; COMMIT; "
_WHOLE = b"""
SELECT set_config('stack.whole', 'yes', true) FROM pg_temp.stack_whole;
COMMIT;
\\endif
"""
# After a COPY psql 17.12 reads no line behind an empty statement, so a semicolon goes only where one is missing.
_FINISHED = re.compile(rb"(?:;|^\\[^\n]*|\A)(?:\s|--[^\n]*)*\Z", re.MULTILINE)
_OR_ELSE = " Take that out, or run the file as it is: `invoke psql -f FILE`."
_ENDS_IN_THE_MIDDLE = "the file ends in the middle: a COPY, a string, a comment or a condition in it is not closed."
_NOT_WHOLE = (
    (re.compile(r"<stdin>:(\d+): .*COMMIT in the middle"), rf"line \1 says COMMIT, and the file goes on.{_OR_ELSE}"),
    (
        re.compile(r"<stdin>:(\d+): .*in a read-only transaction"),
        rf"the file says ROLLBACK, and line \1 would write after it.{_OR_ELSE}",
    ),
    (
        re.compile(r'relation "pg_temp.stack_whole" does not exist'),
        rf"the file says ROLLBACK, so nothing of it would stay.{_OR_ELSE}",
    ),
    (re.compile(r"stack\.whole|reached EOF without finding"), _ENDS_IN_THE_MIDDLE),
)
_COMMIT = re.compile(rb"(?<=[;\s])commit(\s+(work|transaction))?\s*;(\s|--[^\n]*)*\Z", re.IGNORECASE)
_LEAVES = re.compile(rb"\n(\\(?:c|connect|q|quit|set[ \t]+ON_ERROR_(?:STOP|ROLLBACK)))(?=\s)")
_LARGE_OBJECT = re.compile(rb"(\nSELECT pg_catalog\.lo_close\(0\);\n\n)COMMIT;")
_EMPTY = _one_line(b"""
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT extname FROM pg_extension WHERE extname <> 'plpgsql' LOOP
            EXECUTE format('DROP EXTENSION %I CASCADE', name);
        END LOOP;
        FOR name IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
            EXECUTE format('DROP SCHEMA %I CASCADE', name);
        END LOOP;
        PERFORM lo_unlink(oid) FROM pg_largeobject_metadata;
        CREATE SCHEMA public AUTHORIZATION pg_database_owner;
        GRANT USAGE ON SCHEMA public TO PUBLIC;
    END $$;
""")
_COUNT = """
SELECT count(*) + (SELECT count(*) FROM pg_largeobject_metadata), current_setting('server_version_num')
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
"""


def _contents(engine: Engine) -> tuple[int, int]:
    """Return the number of tables, views, sequences and large objects, and the server's major version."""
    result = look(*engine.client("psql", "-XAtqc", _COUNT))
    if result.returncode:
        raise StackError(f"The database does not answer:\n{told(engine, result.stderr)}")
    found, version = map(int, result.stdout.split("|"))
    return found, version // 10000
