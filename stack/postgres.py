"""What is done with a database, whoever runs it: psql and seed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from stack.engine import Engine
from stack.process import Refused, StackError, become, look
from stack.talk import say


def psql(engine: Engine, command: list[str], file: str) -> NoReturn:
    """Become psql in the configured database; with neither command nor file it reads stdin."""
    interactive = not command and not file and sys.stdin.isatty()
    if file and file != "-":
        _read_from(Path(file))
    argv = psql_argv(command, file, stop=not interactive)
    # A client that was given its commands must not swallow the stdin of the loop that it stands in.
    reads = bool(file) or not command
    become(*engine.client(*argv, stdin=reads, terminal=sys.stdin.isatty() and sys.stdout.isatty()))


def psql_argv(command: list[str], file: str, *, stop: bool) -> list[str]:
    """Return psql's command line; `stop` ends it at the first error, with exit code 3."""
    argv = ["psql", *(["-v", "ON_ERROR_STOP=1"] if stop else [])]
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
        command = engine.client("psql", "-qX", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-f", "-", stdin=True)
        with file.open("rb") as sql:
            result = look(*command, stdin=sql, timeout=24 * 3600)
        if result.returncode:
            raise StackError(
                f"seed/{file.name} failed, and nothing of it was kept; the files before it were applied."
                f" psql said:\n{result.stderr.strip()}\nMend the file, then type `invoke seed`"
                " (or `invoke reset` to begin with an empty database)."
            )
    return files


def _read_from(file: Path) -> None:
    try:
        os.dup2(os.open(file, os.O_RDONLY), 0)
    except OSError as error:
        raise Refused(f"{file} cannot be read: {error.strerror}. Name a file of SQL after -f.") from None
