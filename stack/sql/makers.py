"""What makes roles in a script in ways that only a server can follow: DO blocks, functions, results that are run."""

from __future__ import annotations

import re

from stack.sql.tokens import blank, name_of

RUN = ("do", "select", "call")
"""The first words of what may run a function."""
_MAKES = re.compile(rb"(?i)\bcreate\s+(?:role|user|group)\b")
_ROUTINE = re.compile(
    rb'(?i)create\s+(?:or\s+replace\s+)?(?:function|procedure)\s+(?:[\w$"]+\s*\.\s*)?("[^"]+"|[\w$]+)'
)
_ENDS_TRANSACTION = re.compile(rb"(?i)\b(?:commit|rollback)\b")
_FLUSH = b"DO $stack$BEGIN PERFORM pg_stat_force_next_flush(); END$stack$; "
"""What a transaction counts begins with nothing behind this."""


class Makers:
    """Lets the server mark the roles that such statements make, in the transaction that makes them."""

    def __init__(self, mark: str) -> None:
        self._mark = mark.encode()
        self._functions: dict[str, bytes] = {}
        self._ran: list[bytes] = []

    def learn(self, statement: bytes) -> None:
        """Take note of a statement that may make a function."""
        if _MAKES.search(statement) and (found := _ROUTINE.match(statement[len(blank(statement)) :])):
            self._functions[name_of(found[1])] = statement

    def may_make(self, role: str) -> bool:
        """Return whether what was run so far has that name in it, so that the role is to be left to it."""
        return any(_names(text, role) for text in self._ran)

    def marked(self, text: bytes, statement: bytes, *, block: bool, in_transaction: bool) -> bytes:
        """Return a statement with what marks the roles that it makes; `block`: it is run itself, as that of a DO."""
        ran = [statement] if block and _MAKES.search(statement) else []
        ran += [body for name, body in self._functions.items() if _names(statement, name)]
        self._ran += ran
        # What ends its own transaction cannot be run in one with something else.
        if not ran or not self._mark or not text.endswith(b";") or any(map(_ENDS_TRANSACTION.search, ran)):
            return text
        return b"" if not text else (b"" if in_transaction else _FLUSH) + text[:-1] + b" \\; " + self._mark

    def around(self, query: bytes, *, in_transaction: bool) -> tuple[bytes, bytes]:
        r"""Return what goes before a query whose results are run by `\gexec`, and what behind that."""
        if not _MAKES.search(query):
            return b"", b""
        self._ran.append(query)
        if in_transaction or not self._mark:
            return b"", self._mark
        return _FLUSH + b"BEGIN; ", self._mark + b" COMMIT;\n"


def _names(text: bytes, name: str) -> bool:
    return bool(re.search(rb"(?i)(?<![\w$])" + re.escape(name.encode()) + rb"(?![\w$])", text))
