"""psql in the database, whoever runs it."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from invoke.exceptions import Exit

from stack.engine import Engine
from stack.process import Refused, StackError, become, environment, look
from stack.refusals import explain
from stack.talk import say

NOT_CONNECTED = 2
"""psql's exit code when the connection was not made, or broke."""


def psql(engine: Engine, command: list[str], file: str) -> NoReturn:
    """Become psql in the configured database; with neither command nor file it reads stdin."""
    interactive = not command and not file and sys.stdin.isatty()
    if file and file != "-":
        _read_from(Path(file))
    argv = psql_argv(command, file, stop=not interactive)
    # A client that was given its commands must not swallow the stdin of the loop that it stands in, unless they ask.
    reads = bool(file) or not command or any("stdin" in sql.lower() for sql in command)
    if sys.stdin.isatty() and sys.stdout.isatty():
        become(*engine.client(*argv, stdin=reads, terminal=True))
    with interruptible(engine) as name:
        argv, env = engine.client(*argv, stdin=reads, name=name)
        child = subprocess.Popen(argv, env=environment(env), stdin=None if reads else subprocess.DEVNULL)
        code = child.wait()
        if code == NOT_CONNECTED:
            _say_why_not(engine)
        raise Exit(code=code if code >= 0 else 128 - code)  # as a shell tells that a signal ended it


def _say_why_not(engine: Engine) -> None:
    """Say what is known of why nobody is let in; psql has said it in the server's words already."""
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
    except StackError:
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
        with suppress(StackError):  # what has gone wrong first is what counts
            look(*engine.client("psql", "-XAtqc", f"{end}'{name}'"))
        raise


def psql_argv(command: list[str], file: str, *, stop: bool) -> list[str]:
    """Return psql's command line; `stop` ends it at the first error, with exit code 3."""
    argv = ["psql", *(["-X", "-v", "ON_ERROR_STOP=1"] if stop else [])]
    for sql in command:
        argv += ["-c", sql]
    return argv + (["-f", "-"] if file else [])


def _read_from(file: Path) -> None:
    try:
        with file.open("rb") as source:  # says no to a directory, unlike os.open
            os.dup2(source.fileno(), 0)
    except OSError as error:
        raise Refused(f"{file} cannot be read: {error.strerror}. Name a file of SQL after -f.") from None
