"""A piece of a script in the file that it stands in."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from stack.sql.lexer import Lexer
from stack.sql.pieces import Piece


class Event(NamedTuple):
    """A piece of a script, where it stands, and whether psql comes there."""

    piece: Piece
    name: str
    """The command's name; empty when it is none."""
    rest: bytes
    """The command's arguments, as they are written."""
    file: str
    line: int
    sure: bool
    """False in a branch of which only psql knows whether it is taken."""
    conditional: bool
    r"""True between an `\if` and its `\endif`."""

    @property
    def where(self) -> str:
        """Where it stands, for a message."""
        return f"{self.file}:{self.line}"


class Frame:
    """One file that is read."""

    def __init__(self, lexer: Lexer, file: str, beside: Path) -> None:
        self.lexer, self.file, self.beside = lexer, file, beside
        self.branches: list[tuple[bool | None, bool | None]] = []
        r"""For each `\if`: whether the branch is taken, and whether one was before it. None: only psql knows."""
        self.held = b""

    def close(self) -> None:
        """Close a file that is included."""
        if isinstance(self.lexer.source, io.IOBase):
            self.lexer.source.close()

    @property
    def taken(self) -> bool | None:
        """Whether psql comes here, as far as this file tells."""
        return together(taken for taken, _ in self.branches)


def together(answers: Iterable[bool | None]) -> bool | None:
    """Return whether all are true; None when that hangs on one that nobody here knows."""
    found = list(answers)
    return False if False in found else None if None in found else True
