"""The files of seed/: which are applied, and in which order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from stack.engines.base import Engine
from stack.ground import files
from stack.ground.errors import Refused
from stack.ground.talk import say
from stack.sql.sources import seeds
from stack.verbs import executables


def to_apply(engine: Engine) -> list[Path]:
    """Return the files of seed/ in the order in which they are applied; what is passed over is said.

    Raises Refused when one cannot be read, and nobody knows whether it is a program.
    """
    folder = engine.root / "seed"
    there, others = found(engine)
    executables.refuse_elsewhere(engine, [path for path in there if executables.is_program(path)])
    if others:
        say(
            "Passed over in seed/, whose files end in .sql, .sql.gz, .zst, .xz, .bz2 or .zip, or are programs that"
            f" begin with #!: {', '.join(others)}."
        )
    for name in filter(lambda name: executables.begins_as_one(folder / name), others):
        say(f"Type `chmod +x {files.typed(f'seed/{name}')}` to let it be run.")
    return there


def found(engine: Engine) -> tuple[list[Path], list[str]]:
    """Return those files, and the names of what is passed over. Raises Refused when one cannot be read."""
    folder = engine.root / "seed"
    with readable():
        there, others = seeds(folder)
        for path in there + [path for path in map(folder.joinpath, others) if path.exists()]:
            if path.is_file() or not path.exists():  # a link that leads nowhere; to open a pipe would wait
                path.open("rb").close()
    programs = [folder / name for name in others if executables.is_program(folder / name)]
    return sorted(there + programs), [name for name in others if folder / name not in programs]


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Raise Refused for what cannot be read within."""
    try:
        yield
    except OSError as error:
        raise Refused(
            f"{error.filename} cannot be read: {error.strerror}. Nothing was done. Mend that, or take it out of seed/"
            " and of what is read from there; then type the command again."
        ) from None


def size(there: list[Path]) -> int:
    """Return the bytes in files."""
    return sum(file.stat().st_size for file in there)
