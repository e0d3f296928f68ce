"""What invoke does not do by itself: optional words after a task, one line for wrong usage or Ctrl-C, a quick end."""

from __future__ import annotations

import atexit
import gc
import io
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from invoke.exceptions import Exit, ParseError
from invoke.parser import Argument
from invoke.parser.parser import ParseMachine, Parser, ParseResult
from invoke.program import Program

from stack.commands import usage
from stack.commands.usage import WORDS
from stack.ground.errors import Interrupted, Refused, not_loaded
from stack.ground.talk import to_stdout

_after: list[str] = []
"""What followed `--` on the command line; psql and guard have a use for it."""
_completing = False
"""Whether a shell asks what could be typed next: completion lives on lines that cannot be understood yet."""


def install() -> None:
    """Teach the running invoke all of it."""
    _occupy_streams()
    _teach_the_parser()
    _teach_the_program()
    # Python would look through everything for garbage before it ends, which takes as long as any of our questions.
    atexit.register(gc.freeze)
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)


def words_after() -> list[str]:
    """Return what followed `--` on the command line."""
    return list(_after)


def _teach_the_parser() -> None:
    original, completed, parsed = ParseMachine.handle, ParseMachine.complete_flag, Parser.parse_argv

    def handle(self: ParseMachine, token: str) -> None:
        """Give a word that is neither flag nor task to the task's --service, --file or --name.

        invoke's own positional arguments cannot be left out (pyinvoke/invoke#159), so `logs` and
        `logs postgres` could not both be typed.
        """
        arguments = self.context.args if self.context else {}
        free = [arguments[name] for name in WORDS if name in arguments and arguments[name].raw_value is None]
        is_flag = len(token) > 1 and token.startswith("-")
        # `restore reset` means a snapshot of that name, not two tasks of which one deletes all data; and
        # `restart dashboard` one service, not all of them and then the browser; `load` does nothing without a file, so
        # `load seed` means the folder.
        is_word = "name" in arguments or (token in {"dashboard"} and "service" in arguments)
        is_word = is_word or bool(self.context and self.context.name == "load")
        is_task = token in self.contexts and not is_word
        if free and not is_flag and not is_task and not self.waiting_for_flag_value:
            free[0].value = token
            _refuse_empty(self, free[0])
            return
        _refuse_twice(self, token)
        try:
            original(self, token)
        except ParseError as error:
            raise _unknown(self, token, error) from None
        except ValueError:
            raise _no_number(self, token) from None

    def complete_flag(self: ParseMachine) -> None:
        """Refuse a flag without its value: invoke ends with 1, and lets one pass that may be given more than once."""
        flag = None if _completing else self.flag
        got = flag and (self.flag_got_value if flag.kind is list else flag.raw_value is not None)
        if flag and flag.takes_value and not flag.optional and not got:
            raise Refused(f"--{flag.name} needs a value. Type `invoke --help {self.context.name or 'COMMAND'}`.")
        if flag:
            _refuse_empty(self, flag)
        completed(self)

    def parse_argv(self: Parser, argv: list[str]) -> ParseResult:
        if not _completing:
            usage.refuse_valued_switches(argv, self.contexts.values())
        return parsed(self, argv)

    Parser.parse_argv = parse_argv  # type: ignore[method-assign]
    ParseMachine.handle = handle  # type: ignore[method-assign]
    ParseMachine.complete_flag = complete_flag  # type: ignore[method-assign]


def _refuse_empty(machine: ParseMachine, given: Argument) -> None:
    """Refuse an empty word: `restore "$NAME"` of a variable that is not set would restore another than is meant."""
    if given.name in WORDS and given.raw_value == "" and not _completing:
        raise Refused(
            f"--{given.name} is empty, so nothing was done: is a variable not set? Leave it out for the default;"
            f" `invoke --help {machine.context.name}` tells which that is."
        )


def _refuse_twice(machine: ParseMachine, token: str) -> None:
    """Refuse a second value: invoke would take it for a word of its own."""
    flags = machine.context.flags if machine.context else {}
    flag = flags[token] if token in flags else None  # noqa: SIM401 - its `get` knows no short names
    if flag and flag.takes_value and flag.kind is not list and flag.raw_value is not None and not _completing:
        raise Refused(
            f"--{flag.name} is given twice, the first time as {flag.raw_value!r}. Nothing was done. Type it once."
        )


def _unknown(machine: ParseMachine, token: str, error: ParseError) -> Exception:
    if _completing:
        return error
    known = [*machine.contexts]
    if token.startswith("-"):
        known = [*machine.context.flags, *machine.context.inverse_flags, *machine.initial.flags]
    return Refused(
        f"{error}{usage.nearest(token, known)} Type `invoke --list` for the commands, `invoke --help COMMAND` for one."
    )


def _no_number(machine: ParseMachine, token: str) -> Exception:
    if _completing:
        return ParseError("not a number", machine.context)
    return Refused(f"{token!r} is not a number. Type `invoke --help {machine.context.name}`.")


def _teach_the_program() -> None:
    parse, clean_up, execute = Program.parse_tasks, Program.parse_cleanup, Program.execute

    def parse_tasks(self: Program) -> None:
        """Keep what follows `--`, which invoke drops."""
        global _completing  # noqa: PLW0603 - one process reads one command line
        _completing = self.args.complete.value
        if "--" in self.argv and not _completing:
            _after[:] = self.argv[self.argv.index("--") + 1 :]
        parse(self)
        if not _completing:
            usage.refuse_unheard([each.name or "" for each in self.tasks], _after)

    def parse_cleanup(self: Program) -> None:
        """Show what was asked for, or refuse what nothing here would heed."""
        usage.check_questions(self)
        try:
            with to_stdout():
                try:
                    clean_up(self)
                finally:
                    sys.stdout.flush()
        except ValueError:
            if not _completing:
                raise
            raise Exit from None  # a quote that does not end yet
        usage.check_flags(self)
        usage.check_values(self.tasks)

    def run(self: Program) -> None:
        """Change nothing under --dry, which invoke heeds in its own `run` alone; say which package is not there."""
        usage.heed_dry(self)
        try:
            execute(self)
        except RuntimeError as error:
            # Python before 3.12 wraps what is raised in `__set_name__`, which runs while a module is imported.
            if isinstance(error.__cause__, Interrupted):
                raise error.__cause__ from None
            raise
        except ImportError as error:
            if (error.name or "").startswith("stack."):
                raise  # a fault of ours
            raise not_loaded(error) from None

    Program.parse_tasks = parse_tasks  # type: ignore[method-assign]
    Program.parse_cleanup = parse_cleanup  # type: ignore[method-assign]
    Program.execute = run  # type: ignore[method-assign]
    Program.no_tasks_given = _show_commands  # type: ignore[method-assign]
    Program.print_task_help = _help  # type: ignore[method-assign]


def _show_commands(self: Program) -> None:
    from stack.commands import listing

    listing.show(self)
    raise Exit


def _help(self: Program, name: str) -> None:
    from stack.commands import listing

    listing.explain(self, name)


def _occupy_streams() -> None:
    """See to it that no file is opened as a stream that was closed (`2>&-`), and no words go to stdout instead."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # what would be written to it fails still
    # Each is there as long as this process.
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    # What a terminal's encoding lacks is spelled out there too, as Python does on stderr.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def lines(tail: str) -> str:
    """Return how many lines of a log are wanted: a number, or all. Raises Refused for anything else."""
    if tail != "all" and not (tail.isascii() and tail.isdigit()):
        raise Refused(f"--tail {tail!r} is not a number. Type how many lines, or all; `invoke --help logs`.")
    return tail


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)
