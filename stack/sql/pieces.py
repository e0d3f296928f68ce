"""The pieces of a psql script."""

from __future__ import annotations

from typing import NamedTuple, Protocol

PLAIN, SQL, PART, COMMAND, DATA, END = "plain", "sql", "part", "command", "data", "end"


class Readable(Protocol):
    """What bytes come from."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, empty at the end."""


class Piece(NamedTuple):
    """A piece of a script; the texts of all pieces, each `before` first, are the script."""

    kind: str
    """PLAIN: statements that nobody looks at; SQL: one statement; PART: some of a long one; COMMAND: a backslash
    command with its arguments; DATA: lines of a COPY; END: what is left behind the last statement."""
    text: bytes
    line: int
    """The line of the first byte of `before`, or else of `text`."""
    before: bytes = b""
    """With a command: the statement that it stands in, as far as it was not in a piece before."""
    statement: bytes = b""
    """The statement as a whole, if it is not too long; else its beginning."""
