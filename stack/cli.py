"""Two things that invoke does not do by itself: optional words after a task, and Ctrl-C that ends in one line."""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

from invoke.parser.parser import ParseMachine

from stack.process import StackError

WORDS = ("service", "file", "name")


def install() -> None:
    """Teach the running invoke both."""
    original = ParseMachine.handle

    def handle(machine: ParseMachine, token: str) -> None:
        """Give a word that is neither flag nor task to the task's --service, --file or --name.

        invoke's own positional arguments cannot be left out (pyinvoke/invoke#159), so `logs` and
        `logs postgres` could not both be typed.
        """
        arguments = machine.context.args if machine.context else {}
        word = next((arguments[name] for name in WORDS if name in arguments), None)
        flag = token.startswith("-") and token != "-"
        if (word is None or word.raw_value is not None or flag or token in machine.contexts
                or machine.waiting_for_flag_value or machine.context.missing_positional_args):  # fmt: skip
            original(machine, token)
        else:
            word.value = token

    ParseMachine.handle = handle  # type: ignore[method-assign]
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise StackError("Interrupted. `invoke status` shows what is running.", 128 + number)
