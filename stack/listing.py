"""The commands, as `invoke` alone and `invoke --help COMMAND` show them."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Iterable

from invoke.collection import Collection
from invoke.program import Program

from stack.ground.talk import give
from stack.usage import WORDS

GROUPS = {
    "Start and stop": ("up", "status", "logs", "restart", "wait-healthy", "down"),
    "Work with it": ("psql", "env", "dashboard", "admin-key"),
    "Data": ("seed", "fresh", "dump", "load", "reset", "reset-data"),
    "Save points": ("snapshot", "restore", "undo", "snapshots", "diff", "guard", "drop-snapshot"),
    "More databases": ("fork", "forks", "drop-fork", "pool", "drop-pool"),
    "When it does not work, and settings": ("doctor", "init", "stacks", "retire"),
}
"""The commands in order of first use."""
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
    """Return the names of the commands by group; one without a group comes last."""
    left = dict.fromkeys(collection.task_names)
    found = {title: [name for name in names if left.pop(name, name) is None] for title, names in GROUPS.items()}
    return {**found, **({"More": [*left]} if left else {})}


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
