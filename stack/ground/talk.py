"""Words for the user, on stderr: stdout carries data only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stack.ground.errors import Refused, StackError, forget_stdout, printable, stdout_failed

if TYPE_CHECKING:
    from rich.console import RenderableType


def say(message: str) -> None:
    """Print a line of words."""
    print(printable(message), file=sys.stderr, flush=True)


@contextmanager
def to_stdout() -> Iterator[None]:
    """Take a reader that has gone for no failure, and raise StackError for a full disk."""
    try:
        yield
    except BrokenPipeError:
        forget_stdout()
    except OSError as error:
        raise stdout_failed(error) from None


def give(data: str) -> None:
    """Print data on stdout. Raises StackError, also where it would not be what it is."""
    try:
        if sys.stdout.errors == "backslashreplace":
            data.encode(sys.stdout.encoding)
    except UnicodeEncodeError as error:
        raise StackError(
            f"stdout is written in {error.encoding}, which has no {error.object[error.start]!r}. Put"
            " `PYTHONIOENCODING=utf-8` in front of the command, or use a UTF-8 locale."
        ) from None
    with to_stdout():
        print(data, flush=True)


def draw(*things: RenderableType, plain_width: int, soft_wrap: bool = False) -> None:
    """Print what rich lays out on stdout; `plain_width` is that of a line where there is no terminal."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else plain_width)
    with to_stdout():  # even to capture what it prints rich writes, if nothing
        with console.capture() as printed:
            for each in things:
                console.print(each, soft_wrap=soft_wrap)
        print(printed.get().rstrip("\n"), flush=True)


@contextmanager
def live() -> Iterator[Callable[[str], None]]:
    """Show what is being waited for: one live line on a terminal, a line per change elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        console = Console(stderr=True)
        with console.status("starting") as status:

            def update(message: str) -> None:
                line = Text(printable(f"waiting for {message}".partition("\n")[0], one_line=True))
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


@contextmanager
def progress(title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how many bytes are done, how fast, and with a total how long it will take."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    end = (TimeRemainingColumn(),) if total else ()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), *end)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)


def confirm(question: str, *, yes: bool, first: tuple[str, Callable[[], object]] | None = None) -> None:
    """Return when the user agrees; `first` is what they may have done before they decide.

    Raises Refused when they do not agree, or cannot be asked and gave no --yes.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused(
            "There is no terminal to ask on, so nothing was touched. Add --yes to go ahead without a question."
        )
    or_else = f" (d: {first[0]})" if first else ""
    while True:
        print(printable(f"{question}{or_else} [y/N] "), end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline().strip().lower()
        if answer in ("y", "yes"):
            return
        if not first or answer != "d":
            raise Refused("Nothing was touched.")
        first[1]()


def human(size: int) -> str:
    """Return a size in bytes as a person reads it."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def counted(number: float, what: str) -> str:
    """Return a number of things as a person says it: 1 table, 2 tables."""
    return f"{number} {what}{'s' * (number != 1)}"


def ago(seconds: float) -> str:
    """Return how long ago something was as a person says it."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
