"""What invoke does not do by itself: optional words after a task, one line for wrong usage or Ctrl-C, a quick end."""

from __future__ import annotations

import atexit
import gc
import os
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from invoke.exceptions import ParseError
from invoke.parser.parser import ParseMachine, Parser, ParseResult

from stack.process import Refused, StackError

WORDS = ("service", "file", "name")


def install() -> None:
    """Teach the running invoke all of it."""
    _occupy_streams()
    original = ParseMachine.handle

    def handle(self: ParseMachine, token: str) -> None:
        """Give a word that is neither flag nor task to the task's --service, --file or --name.

        invoke's own positional arguments cannot be left out (pyinvoke/invoke#159), so `logs` and
        `logs postgres` could not both be typed.
        """
        arguments = self.context.args if self.context else {}
        free = [arguments[name] for name in WORDS if name in arguments and arguments[name].raw_value is None]
        is_flag = len(token) > 1 and token.startswith("-")
        # `restore reset` means a snapshot of that name, not two tasks of which one deletes all data; and
        # `restart dashboard` one service, not all of them and then the browser.
        is_word = "name" in arguments or (token in {"dashboard"} and "service" in arguments)
        is_task = token in self.contexts and not is_word
        if free and not is_flag and not is_task and not self.waiting_for_flag_value:
            free[0].value = token
            return
        try:
            original(self, token)
        except ParseError as error:
            if "--complete" in sys.argv:  # shell completion lives on these
                raise
            raise Refused(f"{error} Type `invoke --list` for the commands, `invoke --help COMMAND` for one.") from None
        except ValueError:
            raise Refused(f"{token!r} is not a number. Type `invoke --help {self.context.name}`.") from None

    completed = ParseMachine.complete_flag

    def complete_flag(self: ParseMachine) -> None:
        """Refuse a flag without its value: invoke ends with 1, and lets one pass that may be given more than once."""
        flag = self.flag if "--complete" not in sys.argv else None
        got = flag and (self.flag_got_value if flag.kind is list else flag.raw_value is not None)
        if flag and flag.takes_value and not flag.optional and not got:
            raise Refused(f"--{flag.name} needs a value. Type `invoke --help {self.context.name or 'COMMAND'}`.")
        completed(self)

    parsed = Parser.parse_argv

    def parse_argv(self: Parser, argv: list[str]) -> ParseResult:
        """Refuse words after `--`, which invoke drops: `restore -- NAME` would restore another snapshot than that."""
        words = [] if "--complete" in sys.argv else sys.argv[1:]
        if after := words[words.index("--") + 1 :] if "--" in words else []:
            raise Refused(
                f"What follows -- reaches no command: {shlex.join(after)}. Nothing was done. Type it without --; a name"
                " that begins with - as in --name=-x, a file as in ./-x."
            )
        return parsed(self, argv)

    Parser.parse_argv = parse_argv  # type: ignore[method-assign]
    ParseMachine.handle = handle  # type: ignore[method-assign]
    ParseMachine.complete_flag = complete_flag  # type: ignore[method-assign]
    # Python would look through everything for garbage before it ends, which takes as long as any of our questions.
    atexit.register(gc.freeze)
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)


def _occupy_streams() -> None:
    """See to it that no file is opened as a stream that was closed (`2>&-`), and no words go to stdout instead."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # what would be written to it fails still
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - as long as this process


def lines(tail: str) -> str:
    """Return how many lines of a log are wanted: a number, or all. Raises Refused for anything else."""
    if tail != "all" and not (tail.isascii() and tail.isdigit()):
        raise Refused(f"--tail {tail!r} is not a number. Type how many lines, or all; `invoke --help logs`.")
    return tail


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise StackError("Interrupted. `invoke status` shows what is running.", 128 + number)
