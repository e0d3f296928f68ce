"""What invoke does not do by itself: optional words after a task, and one line for wrong usage and for Ctrl-C."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

from invoke.exceptions import ParseError
from invoke.parser.parser import ParseMachine

from stack.process import Refused, StackError

WORDS = ("service", "file", "name")


def install() -> None:
    """Teach the running invoke all three."""
    original = ParseMachine.handle

    def handle(self: ParseMachine, token: str) -> None:
        """Give a word that is neither flag nor task to the task's --service, --file or --name.

        invoke's own positional arguments cannot be left out (pyinvoke/invoke#159), so `logs` and
        `logs postgres` could not both be typed.
        """
        arguments = self.context.args if self.context else {}
        free = [arguments[name] for name in WORDS if name in arguments and arguments[name].raw_value is None]
        is_flag = len(token) > 1 and token.startswith("-")
        if free and not is_flag and token not in self.contexts and not self.waiting_for_flag_value:
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

    ParseMachine.handle = handle  # type: ignore[method-assign]
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise StackError("Interrupted. `invoke status` shows what is running.", 128 + number)
