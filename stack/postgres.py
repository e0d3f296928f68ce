"""What is done with a database, whoever runs it: psql, seed, dump, load."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, NoReturn, cast

from invoke.exceptions import Exit

from stack.engine import Engine
from stack.process import Refused, StackError, become, environment, look
from stack.service import Command
from stack.talk import confirm, human, say


def psql(engine: Engine, command: list[str], file: str) -> NoReturn:
    """Become psql in the configured database; with neither command nor file it reads stdin."""
    interactive = not command and not file and sys.stdin.isatty()
    if file and file != "-":
        _read_from(Path(file))
    argv = psql_argv(command, file, stop=not interactive)
    # A client that was given its commands must not swallow the stdin of the loop that it stands in.
    reads = bool(file) or not command
    if sys.stdin.isatty() and sys.stdout.isatty():
        become(*engine.client(*argv, stdin=reads, terminal=True))
    with interruptible(engine) as name:
        argv, env = engine.client(*argv, stdin=reads, name=name)
        child = subprocess.Popen(argv, env=environment(env), stdin=None if reads else subprocess.DEVNULL)
        raise Exit(code=child.wait())


@contextmanager
def interruptible(engine: Engine) -> Iterator[str]:
    """Give a name for a session, and end that session in the server when this process is interrupted.

    `docker exec` passes no signals on: without this, Ctrl-C would leave the query running.
    """
    name = f"invoke-{os.getpid()}"
    try:
        yield name
    except StackError:
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
        look(*engine.client("psql", "-XAtqc", f"{end}'{name}'"))
        raise


def psql_argv(command: list[str], file: str, *, stop: bool) -> list[str]:
    """Return psql's command line; `stop` ends it at the first error, with exit code 3."""
    argv = ["psql", *(["-X", "-v", "ON_ERROR_STOP=1"] if stop else [])]
    for sql in command:
        argv += ["-c", sql]
    return argv + (["-f", "-"] if file else [])


def seed(engine: Engine) -> list[Path]:
    """Apply seed/*.sql in name order, each file in one transaction, and return them.

    Raises StackError with psql's words at the first file that fails; that file leaves nothing behind.
    """
    files = sorted((engine.root / "seed").glob("*.sql"))
    for file in files:
        say(f"seed/{file.name}")
        with _open(str(file)) as source:
            why = _apply(engine, _BEGIN, source)
        if why:
            raise StackError(
                f"seed/{file.name} failed, and nothing of it was kept; the files before it were applied."
                f" psql said:\n{why}\nMend the file, then type `invoke seed` (or `invoke reset` to begin with an empty"
                " database)."
            )
    return files


def dump(engine: Engine, file: str) -> None:
    """Write the database to `file` in pg_dump's custom format, made by the server's own version.

    `-` is stdout; nothing stands for a dated file in backups/. The file appears when it is complete and on the disk.
    Raises StackError when pg_dump fails, and Refused when binary data would go to a terminal.
    """
    command = engine.client("pg_dump", "--format=custom", "--compress=zstd")
    if file == "-":
        if sys.stdout.isatty():
            raise Refused(
                "A dump is binary and stdout is a terminal. Name a file, or redirect: invoke dump - > my.dump"
            )
        become(*command)
    target = Path(file) if file else engine.root / "backups" / f"{datetime.now():%Y-%m-%d_%H%M%S}.dump"
    try:
        if not file:
            target.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".dump-") as folder:
            with Path(folder, target.name).open("wb") as beside:
                child = subprocess.run(
                    command.argv, env=environment(command.env), stdin=subprocess.DEVNULL, stdout=beside,
                    stderr=subprocess.PIPE, check=False,
                )  # fmt: skip
                os.fsync(beside.fileno())
            if child.returncode:
                raise StackError(f"Nothing was written: pg_dump failed. It said:\n{child.stderr.decode().strip()}")
            Path(folder, target.name).replace(target)
    except OSError as error:
        raise StackError(
            f"{target} cannot be written: {error.strerror}. Choose another place: invoke dump FILE"
        ) from None
    say(f"Wrote {target} ({human(target.stat().st_size)}). `invoke load {target}` brings it back.")


def load(engine: Engine, file: str, *, clean: bool, yes: bool) -> None:
    """Bring a dump or a file of SQL, gzipped or not, into the database: all or nothing. `-` is stdin.

    What it is, is told by its first bytes. A database that is not empty is refused; `clean` empties it in the same
    transaction, after asking. Raises StackError when it fails; the database is then as it was.
    """
    if not file:
        raise Refused("Which file? Type `invoke load FILE`, with a dump or a file of SQL, or - for stdin.")
    before = _BEGIN
    if found := _relations(engine):
        if not clean:
            raise Refused(
                f"The database is not empty: {found} tables, views and sequences. Nothing was loaded. Add --clean to"
                " delete them in the same step, or begin with an empty one: `invoke reset-data`, `invoke up`."
            )
        confirm(f"Delete all {found} tables, views and sequences of the database, and load {file}?", yes=yes)
        before += _EMPTY
    with _open(file) as source:
        why = _apply(engine, before, source)
    if why:
        raise StackError(f"{file} was not loaded, and the database is as it was. The reason:\n{why}")
    say(f"Loaded {file}.")


def _apply(engine: Engine, before: bytes, source: IO[bytes]) -> str:
    """Send a dump to psql and return what went wrong.

    Only the COMMIT that comes after the last byte makes it true: whatever breaks earlier changes nothing.
    """
    with interruptible(engine) as name:
        return _send(engine, before, source, name)


def _send(engine: Engine, before: bytes, source: IO[bytes], name: str) -> str:
    head = _head(source)
    restore = (
        _Piped(engine.client("pg_restore", "-f", "-", "--no-owner", stdin=True), subprocess.PIPE)
        if head[:5] == b"PGDMP"
        else None
    )
    psql = _Piped(engine.client("psql", "-qX", "-v", "ON_ERROR_STOP=1", "-f", "-", stdin=True, name=name))
    psql.feed(io.BytesIO(before))
    if restore:
        with restore.fed(source):
            psql.feed(restore.output)
        why = restore.end()
    else:
        tail = psql.feed(source)
        cut = b"PostgreSQL database dump\n" in head and b"dump complete" not in tail
        why = "the file ends in the middle: the last line of a dump is missing." if cut else ""
    if not why:
        psql.feed(io.BytesIO(b"\n;COMMIT;\n"))
    said = psql.end()
    return why or said


class _Piped:
    """A client program between two pipes; what it says on stderr is kept."""

    def __init__(self, command: Command, output: int = subprocess.DEVNULL) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the program
        self._child = subprocess.Popen(
            command.argv,
            env=environment(command.env),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=self._said,
        )
        self._input: IO[bytes] = self._child.stdin  # type: ignore[assignment]
        self.output: IO[bytes] = self._child.stdout  # type: ignore[assignment]

    def feed(self, source: IO[bytes]) -> bytes:
        """Give it all of `source`, as far as it takes it; return the last bytes."""
        tail = b""
        while chunk := source.read(1 << 18):
            tail = (tail + chunk)[-_HEAD:]
            try:
                self._input.write(chunk)
            except BrokenPipeError:  # it has ended, and says why
                break
        return tail

    @contextmanager
    def fed(self, source: IO[bytes]) -> Iterator[None]:
        """Give it all of `source` while its output is read."""

        def work() -> None:
            self.feed(source)
            with suppress(BrokenPipeError):
                self._input.close()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        yield
        thread.join()

    def end(self) -> str:
        """Close its input, wait for it, and return what it said if it failed."""
        with suppress(BrokenPipeError):
            self._input.close()
        if self.output:
            self.output.read()
            self.output.close()
        code = self._child.wait()
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").strip()
        self._said.close()
        return (said or f"exit code {code}") if code else ""


# On the first line of the file, so that psql counts the lines as the user does.
_BEGIN = b"BEGIN; SET LOCAL client_min_messages = warning; "
_HEAD = 256
"""Bytes at either end of a file that tell what it is, and whether it is whole."""
_EMPTY = rb"""DO $$ DECLARE name text; BEGIN
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
"""
_COUNT = """
SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
"""


def _relations(engine: Engine) -> int:
    result = look(*engine.client("psql", "-XAtqc", _COUNT))
    if result.returncode:
        raise StackError(f"The database does not answer:\n{result.stderr.strip()}\nType `invoke status`.")
    return int(result.stdout)


@contextmanager
def _open(file: str) -> Iterator[IO[bytes]]:
    try:
        # Stdin is read to its end first: what sends it may itself hold locks on this database.
        source = _spooled(sys.stdin.buffer) if file == "-" else Path(file).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise Refused(f"{file} cannot be read: {error.strerror}. Name a dump or a file of SQL.") from None
    with source:
        if _head(source)[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=source) as unzipped:
                yield cast("IO[bytes]", unzipped)
        else:
            yield source


def _spooled(stream: IO[bytes]) -> IO[bytes]:
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    shutil.copyfileobj(stream, spool)
    spool.seek(0)
    return spool


def _head(source: IO[bytes]) -> bytes:
    head = source.read(_HEAD)
    source.seek(0)
    return head


def _read_from(file: Path) -> None:
    try:
        with file.open("rb") as source:  # says no to a directory, unlike os.open
            os.dup2(source.fileno(), 0)
    except OSError as error:
        raise Refused(f"{file} cannot be read: {error.strerror}. Name a file of SQL after -f.") from None
