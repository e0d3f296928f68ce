r"""`\copy` from a file of the user's, as the COPY and the data that psql in a container can read."""

from __future__ import annotations

import re
from typing import IO, NamedTuple

CHUNK = 1 << 18
_SPACE = rb"[ \t\n\r]*"
_NAME = re.compile(_SPACE + rb"""([.,()]|"(?:[^"]|"")*"?|[^ \t\n\r.,()"]+)""")
_LITERAL = rb"""'(?:[^']|'')*'?"""
_ESCAPED = rb"""'(?:[^'\\]|''|\\.|\\\Z)*'?"""
_REST = rb"""|[()]|"(?:[^"]|"")*"?|[^ \t\n\r()"']+)"""
_IN_QUERY = re.compile(_SPACE + rb"([eE]" + _ESCAPED + rb"|" + _LITERAL + _REST, re.DOTALL)
_IN_QUERY_ESCAPED = re.compile(
    _SPACE + rb"([eE]?" + _ESCAPED + _REST.replace(rb'"(?:[^"]|"")*"?', rb'"(?:[^"\\]|""|\\.|\\\Z)*"?'), re.DOTALL
)
_PLACE = re.compile(_SPACE + rb"(;|" + _LITERAL + rb"|[^ \t\n\r;']+)")
_ENDS = re.compile(rb"^\\\.\r?\n", re.MULTILINE)


class Copy(NamedTuple):
    r"""What a `\copy` says."""

    table: bytes
    incoming: bool
    kind: str
    """file, program, stdin, pstdin, stdout, or pstdout."""
    path: bytes
    options: bytes

    @property
    def binary(self) -> bool:
        """True for the format that is no text."""
        words = b" ".join([self.table, self.options]).lower()
        return bool(
            re.match(rb"\s*binary\b", words) or re.search(rb"\bformat\s*'?binary|\bbinary\b", self.options.lower())
        )

    def sql(self) -> bytes:
        """Return the statement that takes the same from the lines that follow."""
        return b"COPY " + self.table.strip() + b" FROM STDIN " + self.options.strip().rstrip(b"; \t") + b";"


def parsed(rest: bytes, *, escapes: bool = False) -> Copy | None:
    r"""Return what the arguments of a `\copy` say, as psql's parse_slash_copy cuts them; None when it takes them not.

    `escapes`: whether a backslash escapes in every string of a query, as without standard_conforming_strings.
    """
    at, depth, named = 0, 0, False
    query = re.match(rb"\s*(?:binary\s*)?\(", rest, re.IGNORECASE)
    inside = (_IN_QUERY_ESCAPED if escapes else _IN_QUERY) if query else _NAME
    while found := (inside if depth else _NAME).match(rest, at):
        word = found[1].lower()
        if not depth and named and word in (b"from", b"to"):
            break
        depth += (word == b"(") - (word == b")")
        named = word != b"." and (named or at > 0 or word != b"binary")  # else a name comes, whichever word that is
        at = found.end()
    if not found or not (place := _PLACE.match(rest, found.end())):
        return None
    table, incoming = rest[: found.start(1)], word == b"from"
    said, options = place[1], rest[place.end() :]
    if said[:1] == b"'":
        return Copy(table, incoming, "file", said[1:].removesuffix(b"'").replace(b"''", b"'"), options)
    kind = said.lower().decode("latin-1")
    if kind in ("program", "stdin", "pstdin", "stdout", "pstdout"):
        return Copy(table, incoming, kind, b"", options)
    return Copy(table, incoming, "file", said, options)


class Lines:
    r"""The bytes of a file as lines that end with `\.`, as far as psql itself would read them."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._ended = False
        self._line = b""
        self._begun = 0
        """1 when some of the line was given already: a `\\.` that follows does not stand alone."""
        self.lone_returns = False
        """True when its lines end with CR alone, which no line of a script can."""
        head = file.read(CHUNK)
        file.seek(0)
        self.lone_returns = b"\r" in head and b"\n" not in head
        self.nulls = b"\0" in head
        """True for UTF-16 and what is no text; psql itself would drop what follows a null byte in a line."""
        first = head.find(b"\n")
        # The server wants all its lines to end alike.
        self._newline = b"\r\n" if head[first - 1 : first] == b"\r" and first > 0 else b"\n"
        self._marker = b"\\." + self._newline

    def read(self) -> bytes:
        r"""Return the next lines, with the `\.` behind the last; empty at the end."""
        if self._ended:
            return b""
        text = self._line + self._file.read(CHUNK)
        if text == self._line:  # the end of the file
            self._ended = True
            if text.rstrip(b"\r") == b"\\." and not self._begun:
                return self._marker
            return text.removesuffix(b"\r" * (len(self._newline) - 1)) + self._newline * bool(text) + self._marker
        if found := _ENDS.search(text, self._begun):  # where psql 17 stops reading, in CSV too
            self._ended = True
            return text[: found.start()] + self._marker
        cut = text.rfind(b"\n") + 1 or max(len(text) - 3, 0)
        self._begun = int(text[cut - 1 : cut] != b"\n")
        given, self._line = text[:cut], text[cut:]
        return given or self.read()
