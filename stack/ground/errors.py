"""What a person can act on: a failure, and a refusal."""

from __future__ import annotations

import os
import shutil
import sys

from invoke.exceptions import Exit

Words = tuple[str, str]
"""Why, as a clause, and the cure, in sentences."""


def printable(text: str, *, one_line: bool = False) -> str:
    """Return words that a terminal only shows: control characters, and what is not seen, are spelled out.

    Lines and tabs stay, unless it is to be `one_line`.
    """
    stays, text = "" if one_line else "\n\t", text.replace("\r\n", "\n")
    return "".join(
        each if each.isprintable() or each in stays else each.encode("unicode_escape", "surrogatepass").decode()
        for each in text
    )


class StackError(Exit):
    """A failure that a person can act on: what happened, why, what to type next. No traceback."""

    def __init__(self, message: str, code: int = 1, *, cure: str = "") -> None:
        message = printable(message)
        super().__init__(f"{message}{'' if message.endswith(chr(10)) else ' '}{printable(cure)}".rstrip(), code)
        self.what, self.cure = message, cure

    def __str__(self) -> str:
        return str(self.message)


class Refused(StackError):
    """Wrong usage, or a safety check said no: nothing was touched. Exit code 2."""

    def __init__(self, message: str, *, cure: str = "") -> None:
        super().__init__(message, 2, cure=cure)


class Interrupted(Exit):
    """Ctrl-C, or a signal that ends us. No StackError: what passes over a failure must not pass over this."""

    def __init__(self, number: int) -> None:
        super().__init__("Interrupted. `invoke status` shows what is running.", 128 + number)


def not_installed(program: str) -> str:
    """Return what to say when a program is not on PATH."""
    return (
        f"`{program}` was not found on PATH. The stack runs in Docker containers, so it needs Docker Engine with"
        " Compose 2.24 or newer. Install it (https://docs.docker.com/get-docker/), then type the command again."
        if program == "docker"
        else f"`{program}` was not found on PATH. Install it, then type the command again."
    )


def not_loaded(error: ImportError) -> StackError:
    """Return what to say when a package is not there for the Python that runs: it has changed, or the list of them."""
    why = str(error).strip().partition("\n")[0].rstrip(".")
    return StackError(
        f"Python {sys.version.split()[0]} in {sys.prefix} does not load all that requirements.txt names: {why}. Type"
        " `python3 -m venv --clear .venv && . .venv/bin/activate && pip install -r requirements.txt` in the checkout,"
        " then the command again."
    )


def stdout_failed(error: OSError) -> StackError:
    """Return what to say when data cannot be written to stdout, to which nothing is written any more."""
    forget_stdout()
    return StackError(f"stdout cannot be written: {error.strerror}. Make room, or send it elsewhere.")


def forget_stdout() -> None:
    """Go on without a reader: `invoke status | head -1` is no failure."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def not_started(program: str, error: OSError) -> StackError:
    """Return what to say when a program does not start: it is not there, or the machine does not take it."""
    # A folder of PATH that may not be searched counts as one that may not be run, though the program is nowhere.
    nowhere = isinstance(error, PermissionError) and os.sep not in program and not shutil.which(program)
    if isinstance(error, FileNotFoundError) or nowhere:
        return StackError(not_installed(program))
    return StackError(
        f"`{program}` could not be started: {error.strerror}. Look at that program, or install it anew; then type the"
        " command again."
    )
