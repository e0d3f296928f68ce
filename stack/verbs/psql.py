"""psql in the database, whoever runs it."""

from __future__ import annotations

import errno
import mmap
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NoReturn

from invoke.exceptions import Exit

from stack.engines.base import Engine
from stack.ground.errors import Interrupted, Refused, StackError
from stack.ground.run import NOWHERE, PIPE, Command, become, look, start
from stack.ground.talk import say
from stack.server.address import conninfo
from stack.verbs import psql_options
from stack.verbs.passed_on import Where, passed_on
from stack.verbs.psql_options import Options

NOT_CONNECTED = 2
"""psql's exit code when the connection was not made, or broke."""
_NAMES_FILES = re.compile(rb"^[ \t]*\\(?:i|ir|include|include_relative|copy)\b", re.MULTILINE)
_EXTENSION = re.compile(rb"(?i)\bcreate\s+extension\b")
_FIFOS = r"""
d=$1 files=$2; shift 2; mkdir -m 700 "$d" || exit
for f in $files; do mkfifo "$d/${f#*:}" || exit; done
exec 3<&0
(trap 'kill $h 2>/dev/null; exit' TERM
 for f in $files; do head -c "${f%%:*}" <&3 >"$d/${f#*:}" & h=$!; wait $h; done) &
"$@" </dev/null 3<&-; code=$?
kill $! 2>/dev/null; wait $! 2>/dev/null; rm -rf "$d"; exit $code
"""
"""Runs psql where it has one stdin and several files: each is a pipe that the next bytes of stdin go through."""


def psql(engine: Engine, command: list[str], file: str, words: Sequence[str] = ()) -> NoReturn:
    """Become psql in the configured database; with neither command nor file it reads stdin. `words` are psql's own."""
    asked = psql_options.read(command, file, words)
    stop = asked.acts or not sys.stdin.isatty()
    # A client that was given its commands must not swallow the stdin of the loop that it stands in, unless they ask.
    reads = not asked.acts or "-" in asked.files or any("stdin" in sql.lower() for sql in asked.commands)
    files: dict[str, Where] = {}
    if engine.sees_files:
        for each in asked.files:
            _refuse_unreadable(each)
        _run(engine, asked, _psql(engine, asked, stop=stop), files, reads=reads or bool(asked.files))
    if asked.last("-L") or asked.last("-o").startswith("|"):
        raise Refused(
            "psql runs in the container, so what -L or -o | writes would stay there. Nothing was done. Type"
            " `invoke psql … > FILE`, or `| COMMAND` after it."
        )
    if written := asked.last("-o"):
        asked.words = [each for each in asked.words if each[0] != "-o"]
        _write_to(Path(written))
    if len(asked.files) < 2:
        for each in asked.files:
            if each != "-":
                files["<stdin>"] = _read_from(Path(each))
        _run(engine, asked, _psql(engine, asked, stop=stop), files, reads=reads or bool(asked.files))
    with _spooled(asked.files) as (sizes, where):
        argv, names = _with_files(_psql(engine, asked, stop=stop), asked.files, sizes)
        _run(engine, asked, argv, dict(zip(names, where, strict=True)), reads=True)


def _run(engine: Engine, asked: Options, argv: list[str], files: Mapping[str, Where], *, reads: bool) -> NoReturn:
    def there(*, terminal: bool = False, name: str = "") -> Command:
        command = engine.client(*argv, stdin=reads, terminal=terminal, name=name)
        return _elsewhere(command, asked) if engine.sees_files else command

    may_lack = _wants_extension(asked)
    if sys.stdin.isatty() and sys.stdout.isatty() and not may_lack:
        become(*there(terminal=True))
    with interruptible(engine) as name:
        started, env = there(name=name)
        hears = may_lack or not engine.sees_files
        # A file may be `<(…)`, which is a descriptor of this process.
        child = start(started, env, stdin=None if reads else NOWHERE, stderr=PIPE if hears else None, inherits=True)
        said = passed_on(child.stderr, files) if child.stderr else str
        code = child.wait()
        words = said()
        if code:
            _say_more(engine, code, words)
        raise Exit(code=code if code >= 0 else 128 - code)  # as a shell tells that a signal ended it


def _wants_extension(asked: Options) -> bool:
    """Return whether its commands and files, as far as they can be looked at, make an extension."""
    if any(_EXTENSION.search(sql.encode(errors="surrogateescape")) for sql in asked.commands):
        return True
    return any(_has(Path(file), _EXTENSION) for file in asked.files if file != "-")


def _has(file: Path, words: re.Pattern[bytes]) -> bool:
    """Return whether words are in a file; a pipe can be read only once. Raises OSError."""
    if not file.is_file() or not file.stat().st_size:
        return False
    with file.open("rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return bool(words.search(content))


def _say_more(engine: Engine, code: int, words: str) -> None:
    """Say what is known of an error that psql has told in its own words."""
    from stack.verbs.cures import no_extension

    if code == NOT_CONNECTED:
        _say_why_not(engine)
    elif lacks := no_extension(engine, words):
        say(lacks)


def _say_why_not(engine: Engine) -> None:
    """Say what is known of why nobody is let in; psql has said it in the server's words already."""
    from stack.verbs.causes import explain

    asked = look(*engine.client("psql", "-XAtqc", "SELECT 1"))
    if asked.returncode and (found := explain(engine, asked.stderr)):
        why, cure = found
        say(f"{why[:1].upper()}{why[1:]}{'. ' * bool(why)}{cure}")


@contextmanager
def interruptible(engine: Engine) -> Iterator[str]:
    """Give a name for a session, and end that session in the server when this process is interrupted.

    `docker exec` passes no signals on: without this, Ctrl-C would leave the query running.
    """
    name = f"invoke-{os.getpid()}-{secrets.token_hex(4)}"  # other machines' programs may be on the server too
    try:
        yield name
    except (StackError, Interrupted):
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
        with suppress(StackError):  # what has gone wrong first is what counts
            look(*engine.client("psql", "-XAtqc", f"{end}'{name}'"))
        raise


def psql_argv(asked: Options, *, stop: bool) -> list[str]:
    """Return psql's command line; `stop` ends it at the first error, with exit code 3."""
    argv = ["psql", *(["-X", "-v", "ON_ERROR_STOP=1"] if stop else [])]
    for option, value in asked.words:
        argv += [option, value] if value or option in ("-c", "-f") else [option]
    return argv


def _psql(engine: Engine, asked: Options, *, stop: bool) -> list[str]:
    """Return psql's command line as it stands where it runs: a single file that it does not see comes from stdin."""
    argv = psql_argv(asked, stop=stop)
    if engine.sees_files:
        return argv
    if len(asked.files) == 1:
        argv = ["-" if before == "-f" else word for before, word in zip(["", *argv], argv, strict=False)]
    elsewhere = [*["-d", asked.database] * bool(asked.database), *["-U", asked.user] * bool(asked.user)]
    return [argv[0], *elsewhere, *argv[1:]]


def _elsewhere(command: Command, asked: Options) -> Command:
    """Return a command line that logs in by a connection string, to the database and as the user asked for.

    A second -d would take the place of the whole string, and -U counts less than what stands in it.
    """
    place = command.argv.index("-d") + 1
    string = f"{command.argv[place]} {conninfo({'dbname': asked.database, 'user': asked.user})}".rstrip()
    return command._replace(argv=[*command.argv[:place], string, *command.argv[place + 1 :]])


@contextmanager
def _spooled(files: Sequence[str]) -> Iterator[tuple[list[int], list[Where]]]:
    """Put the content of several files one after the other on stdin, and give the size of each, and its lines."""
    sizes, lines = list[int](), list[Where]()
    with tempfile.TemporaryFile() as spool:
        for file in files:
            before = spool.tell()
            try:
                source, where = (
                    (os.fdopen(os.dup(0), "rb"), _lines_of("<stdin>")) if file == "-" else _opened(Path(file))
                )
                with source:
                    shutil.copyfileobj(source, spool)
            except OSError as error:
                raise _unreadable(file, error) from None
            sizes.append(spool.tell() - before)
            lines.append(where)
        spool.seek(0)
        os.dup2(spool.fileno(), 0)
        yield sizes, lines


def _with_files(argv: list[str], files: Sequence[str], sizes: Sequence[int]) -> tuple[list[str], list[str]]:
    """Return the command line that gives a psql, which does not see them, files that stand on its stdin.

    And what psql calls each of them.
    """
    folder = f"/tmp/invoke-{secrets.token_hex(4)}"  # noqa: S108 - in a container, made for its owner alone
    names = [f"{number}-{re.sub(r'[^A-Za-z0-9_.-]', '_', Path(file).name)}" for number, file in enumerate(files, 1)]
    called = [f"{folder}/{name}" for name in names]
    left = iter(called)
    psql = [next(left) if before == "-f" else word for before, word in zip(["", *argv], argv, strict=False)]
    sized = " ".join(f"{size}:{name}" for size, name in zip(sizes, names, strict=True))
    return ["sh", "-c", _FIFOS, "sh", folder, sized, *psql], called


def _read_from(file: Path) -> Where:
    try:
        source, where = _opened(file)
        with source:
            os.dup2(source.fileno(), 0)
    except OSError as error:
        raise _unreadable(str(file), error) from None
    return where


def _opened(file: Path) -> tuple[IO[bytes], Where]:
    r"""Open a file for a psql that sees its stdin alone: what its \i and \copy name is put into it. Raises OSError."""
    if _has(file, _NAMES_FILES):
        from stack.sql.spool import spooled  # the most of psql's imports, for few of its files

        source, script = spooled(file)
        return source, script.where
    return file.open("rb"), _lines_of(str(file))  # says no to a directory, unlike os.open


def _lines_of(file: str) -> Where:
    return lambda line: f"{file}:{line}"


def _write_to(file: Path) -> None:
    try:
        with file.open("wb") as target:
            os.dup2(target.fileno(), 1)
    except OSError as error:
        raise Refused(f"{file} cannot be written: {error.strerror}. Name another file after -o.") from None


def _refuse_unreadable(file: str) -> None:
    """Look only: a pipe that is opened twice loses what is in it."""
    if file == "-":
        return
    try:
        if stat.S_ISDIR(Path(file).stat().st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not os.access(file, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unreadable(file, error) from None


def _unreadable(file: str, error: OSError) -> Refused:
    return Refused(f"{file} cannot be read: {error.strerror}. Name a file of SQL after -f.")
