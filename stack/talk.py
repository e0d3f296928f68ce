"""Words for the user, on stderr: stdout carries data only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stack.process import Refused, forget_stdout


def say(message: str) -> None:
    """Print a line of words."""
    print(message, file=sys.stderr, flush=True)


def give(data: str) -> None:
    """Print data on stdout."""
    try:
        print(data, flush=True)
    except BrokenPipeError:
        forget_stdout()


@contextmanager
def live() -> Iterator[Callable[[str], None]]:
    """Show what is being waited for: one live line on a terminal, a line per change elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        console = Console(stderr=True)
        with console.status("starting") as status:

            def update(message: str) -> None:
                line = Text(f"waiting for {message}".partition("\n")[0])
                line.truncate(console.width - 3, overflow="ellipsis")
                status.update(line)

            yield update
    else:
        last = ""

        def show(message: str) -> None:
            nonlocal last
            if message != last:
                say(f"waiting for {message}")
                last = message

        yield show


def confirm(question: str, *, yes: bool) -> None:
    """Return when the user agrees. Raises Refused when they do not, or cannot be asked and gave no --yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused(
            "There is no terminal to ask on, so nothing was touched. Add --yes to go ahead without a question."
        )
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Refused("Nothing was touched.")


def human(size: int) -> str:
    """Return a size in bytes as a person reads it."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
