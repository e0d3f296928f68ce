"""Programs in seed/: run in their turn, with the stack's settings, on the database that is being made."""

from __future__ import annotations

import os
import re
from pathlib import Path

from stack.engines.base import Engine
from stack.ground.errors import Refused
from stack.ground.files import typed
from stack.ground.run import do
from stack.sql.sources import SEEDS
from stack.verbs import env
from stack.verbs.feed import Unfit, how_it_ended

STDERR = 2
_READS = re.compile(rb"\W+reads:(.*)")


def is_program(path: Path) -> bool:
    """Return whether a file of seed/ is run: it may be, and its first bytes say by what.

    The bits alone do not tell: on some file systems every file has them.
    """
    return not SEEDS.search(path.name) and begins_as_one(path) and os.access(path, os.X_OK)


def begins_as_one(path: Path) -> bool:
    """Return whether a file begins with `#!`."""
    try:
        with path.open("rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def refuse_elsewhere(engine: Engine, programs: list[Path]) -> None:
    """Raise Refused where what a program does cannot be taken back: on a server that is run elsewhere."""
    if programs and engine.name == "external":
        name = f"seed/{programs[0].name}"
        raise Refused(
            f"{name} is a program, and what it does to a server that is run elsewhere cannot be taken back. Nothing was"
            f' applied. Run it yourself, `eval "$(invoke env --format shell)" && {typed(name)}`, and move it out of'
            " seed/."
        )


def run(engine: Engine, path: Path, database: str) -> None:
    """Run a program in the checkout's directory, with what `invoke env` prints, but for another database.

    What it prints goes to stderr. Raises Unfit when its exit code is another than 0.
    """
    with path.open("rb") as file:
        line = os.fsdecode(file.readline(4096)[2:]).rstrip("\n").lstrip()
    runner = line.partition(" ")[0].partition("\t")[0]
    if not Path(runner).exists():
        raise Unfit(f"its first line says that {runner!r} runs it, which is not there.")
    code = do([str(path)], env.settings(engine, database=database), stdout=STDERR, inside=engine.root)
    if code:
        raise Unfit(f"{how_it_ended(code)}. What it said is above.")


def reads(path: Path) -> list[str] | None:
    """Return the files and folders that a program says it reads, in its second line; None when it does not say."""
    with path.open("rb") as file:
        said = _READS.match(file.read(4096).partition(b"\n")[2].partition(b"\n")[0])
    return os.fsdecode(said[1]).split() if said else None
