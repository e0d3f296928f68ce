"""The commands, as `invoke` alone and `invoke --help COMMAND` show them."""

from __future__ import annotations

import inspect
import shutil
import sys
import textwrap
from collections.abc import Iterable

from invoke.collection import Collection
from invoke.program import Program

from stack.commands.usage import WORDS
from stack.ground.talk import give

AFTER = {"psql": "[-- WORDS FOR PSQL]", "guard": "-- COMMAND"}
"""What may follow a command."""


def show(program: Program) -> None:
    """Print the commands in groups."""
    width = max(map(len, program.collection.task_names)) + 3
    parts = ["Usage: invoke COMMAND [--options]; `invoke --help COMMAND` shows the options."]
    for title, names in grouped(program.collection).items():
        lines = (_row(name, _first_line(program.collection, name), width) for name in names)
        parts.append("\n".join([f"{title}:", *lines]))
    give("\n\n".join(parts))


def grouped(collection: Collection) -> dict[str, list[str]]:
    """Return the names of the commands by the room in which they stand, whose first line is their title."""
    found: dict[str, list[str]] = {}
    for name in collection.task_names:
        room = sys.modules[collection[name].body.__module__]
        found.setdefault((room.__doc__ or "").rstrip("."), []).append(name)
    return found


def explain(program: Program, name: str) -> None:
    """Print what a command does and its options."""
    context = program.parser.contexts[name]
    word = next((f"[{each.upper()}] " for each in WORDS if each in context.args), "")
    options = context.help_tuples()
    usage = f"Usage: invoke {name} {word}{'[--options] ' * bool(options)}{AFTER.get(name, '')}"
    parts = [usage.rstrip(), "\n".join(_wrapped(inspect.getdoc(program.collection[name]) or ""))]
    if options:
        width = max(len(flags) for flags, _ in options) + 3
        parts.append("\n".join(["Options:", *(_row(flags, what or "", width) for flags, what in options)]))
    give("\n\n".join(parts))


def _row(name: str, what: str, width: int) -> str:
    room = max(shutil.get_terminal_size().columns - width - 3, 20)
    first, *more = textwrap.wrap(what, room) or [""]
    return "\n".join([f"  {name:{width}}{first}".rstrip(), *(f"  {'':{width}}{line}" for line in more)])


def _wrapped(text: str) -> Iterable[str]:
    return (textwrap.fill(line, max(shutil.get_terminal_size().columns - 1, 20)) for line in text.splitlines())


def _first_line(collection: Collection, name: str) -> str:
    return (inspect.getdoc(collection[name]) or "").partition("\n")[0]
