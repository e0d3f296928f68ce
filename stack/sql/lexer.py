"""A psql script cut into pieces as psql's own lexer cuts it (psqlscan.l, psqlscanslash.l): fast, whatever its size."""

from __future__ import annotations

from codecs import BOM_UTF8

from stack.sql.patterns import (
    ARGUMENT,
    COMMENT,
    DOLLAR,
    ESCAPED,
    ESCAPES,
    MARKER,
    NAME,
    NOTHING,
    OPEN,
    PIPE,
    PLAIN_STATEMENTS,
    QUIET,
    TOKEN,
    WHOLE_LINE,
    WORD,
)
from stack.sql.pieces import COMMAND, DATA, END, PART, PLAIN, SQL, Piece, Readable
from stack.sql.tokens import copies_from_stdin, in_atomic_body

CHUNK = 1 << 18
LIMIT = 1 << 18
"""Bytes of one statement that are held; of a longer one only the beginning is looked at."""
MARGIN = 256
"""Bytes before the end of what was read in which a word may go on."""
HEAD = 4096
"""Bytes at the beginning of a statement that tell its kind, when it is longer than LIMIT."""


class Lexer:
    """Cuts one file into pieces."""

    def __init__(self, source: Readable, line: int = 1) -> None:
        self.source = source
        self.line = line
        """The line of the first byte that was not given yet."""
        self.last_line = line
        """The line of the last byte that was given."""
        self.backslash_escapes = False
        """True while standard_conforming_strings is off."""
        self.skips = False
        """True in a branch that is not taken: no COPY is run there, so none has data."""
        self._text = b""
        self._ended = self._begun = False
        self._start = self._at = 0
        self._inside = b""
        self._nested = self._depth = 0
        self._said = self._behind = b""
        self._copies = False
        self._at_line_start = True

    @property
    def inside(self) -> str:
        """What is open at the end of the file, in words; empty when nothing is."""
        return OPEN.get(self._inside, "a dollar-quoted string") or ("a parenthesis" if self._depth else "")

    def next(self) -> Piece | None:
        """Return the next piece; None behind the last."""
        while True:
            if self._copies:
                if piece := self._data():
                    return piece
                continue
            if self._may_be_plain() and (found := PLAIN_STATEMENTS.match(self._text, self._at)):
                self._at = found.end()
                return self._give(PLAIN)
            if piece := self._scan():
                return piece
            if self._at - self._start > LIMIT:
                return self._part()
            if not self._more():
                return self._last()

    def _may_be_plain(self) -> bool:
        begun = self._start < self._at or self._said
        return not (begun or self._inside or self._depth or self.backslash_escapes)

    def expect_data(self) -> None:
        r"""Take the lines that follow for those of a COPY, as those behind `\copy … from stdin` are."""
        self._copies, self._at_line_start = True, True

    def forget(self) -> None:
        r"""Begin a new statement, as `\r` does, and what sends one without a semicolon."""
        self._said, self._depth = b"", 0

    # -- bytes ----------------------------------------------------------------------------------------------------

    def _more(self) -> bool:
        """Read on; False when there is no more."""
        if self._ended:
            return False
        kept = max(self._start - 2, 0)  # two bytes tell whether a word goes on
        chunk = self.source.read(CHUNK)
        self._ended = not chunk
        if not self._begun:  # psql takes a byte order mark only where its input begins, however few bytes come at once
            while 0 < len(chunk) < len(BOM_UTF8) and BOM_UTF8.startswith(chunk) and (more := self.source.read(CHUNK)):
                chunk += more
            self._begun, chunk = bool(chunk), chunk.removeprefix(BOM_UTF8)
        self._text = self._text[kept:] + chunk
        self._start, self._at = self._start - kept, self._at - kept
        return True

    def _give(self, kind: str, before: int = 0, statement: bytes = b"") -> Piece:
        """Return what was looked at as a piece; the first `before` bytes of it belong to the statement it is in."""
        given = self._text[self._start : self._at]
        piece = Piece(kind, given[before:], self.line, given[:before], statement)
        self.line += given.count(b"\n")
        self.last_line = max(self.line - given.endswith(b"\n"), 1)
        self._start = self._at
        return piece

    def _part(self) -> Piece:
        self._said = (self._said + self._text[self._start : self._at])[:HEAD]
        return self._give(PART, statement=self._said)

    def _last(self) -> Piece | None:
        rest, self._at = self._text[self._start :], len(self._text)
        return self._give(END, statement=self._said + rest) if rest else None

    # -- SQL ------------------------------------------------------------------------------------------------------

    def _scan(self) -> Piece | None:
        """Go on to the end of a statement or to a command; None when more must be read first."""
        while True:
            if self._inside and not self._leave():
                return None
            text = self._text
            limit = len(text) if self._ended else len(text) - MARGIN
            if not self.backslash_escapes and (quiet := QUIET.match(text, self._at, max(limit, self._at))):
                self._at = quiet.end()
            found = TOKEN.search(text, self._at)
            if not found or found.start() >= limit:
                self._at = max(self._at, min(limit, len(text)))
                return None
            token, self._at = found[0], found.end()
            if token == b";":
                if not self._depth and not self._in_atomic_body():
                    return self._statement()
            elif token != b"\\":
                self._enter(token, found.start())
            elif text[self._at : self._at + 1] in (b";", b":"):  # what psql puts into the statement
                self._at += 1
            elif (line := self._line_end()) < 0:
                self._at = found.start()
                return None
            else:
                return self._command(found.start(), line)

    def _enter(self, token: bytes, start: int) -> None:
        if token == b"$":
            self._dollar(start)
        elif token in (b"(", b")"):
            self._depth = max(self._depth + (1 if token == b"(" else -1), 0)
        else:
            self._inside = token
        if token == b"/*":
            self._nested = 1
        elif token == b"'" and (self.backslash_escapes or ESCAPES.search(self._text, max(start - 2, 0), start)):
            self._inside = b"E"

    def _dollar(self, start: int) -> None:
        if (found := DOLLAR.match(self._text, start)) and not (start and WORD.match(self._text, start - 1, start)):
            self._inside, self._at = found[0], found.end()

    def _leave(self) -> bool:
        """Go to the end of a string, a name or a comment; False when it is not there yet."""
        text, inside = self._text, self._inside
        if inside == b"/*":
            return self._leave_comment()
        if inside == b"E":
            return self._leave_escapes()
        end = text.find(b"\n" if inside == b"--" else inside, self._at)
        if end < 0:
            self._at = max(self._at, len(text) - len(inside) + 1 if len(inside) > 1 and inside != b"--" else len(text))
            return False
        self._at = end + (1 if inside == b"--" else len(inside))
        self._inside = b""
        return True

    def _leave_comment(self) -> bool:
        while found := COMMENT.search(self._text, self._at):
            self._at = found.end()
            self._nested += 1 if found[0] == b"/*" else -1
            if not self._nested:
                self._inside = b""
                return True
        self._at = max(self._at, len(self._text) - 1)
        return False

    def _leave_escapes(self) -> bool:
        """Leave a string with backslash escapes. One that goes on in the next line is another to psql, without them."""
        found = ESCAPED.match(self._text, self._at)
        assert found
        self._at = found.end()
        if self._at + 1 >= len(self._text) and not self._ended:
            return False
        if self._text[self._at : self._at + 1] != b"'":
            return False
        self._at += 1
        self._inside = b""
        return True

    def _in_atomic_body(self) -> bool:
        text = self._said + self._text[self._start : self._at]
        return len(text) <= LIMIT and in_atomic_body(text)

    def _statement(self) -> Piece:
        whole = self._said + self._text[self._start : self._at]
        self._said = b""
        if not self.skips and copies_from_stdin(whole):
            self._until_line_end()
        return self._give(SQL, statement=whole)

    def _until_line_end(self) -> None:
        """Take the rest of the line: the data of a COPY begins behind it, and psql runs what is in it after that."""
        while (end := self._text.find(b"\n", self._at)) < 0 and self._more():
            pass
        end = end + 1 or len(self._text)
        if not NOTHING.fullmatch(self._text, self._at, end):
            self._behind = self._text[self._at : end]
            self._text = self._text[: self._at] + b"\n" + self._text[end:]
            end = self._at + 1
        self._at = end
        self.expect_data()

    # -- commands -------------------------------------------------------------------------------------------------

    def _line_end(self) -> int:
        """Return where the line ends, behind its newline; below 0 when that was not read yet."""
        end = self._text.find(b"\n", self._at)
        return end + 1 if end >= 0 else len(self._text) if self._ended else -1

    def _command(self, start: int, line: int) -> Piece:
        found = NAME.match(self._text, start)
        assert found
        at = found.end()
        whole_line = found[1] in WHOLE_LINE or found[1].lower() == b"copy" or PIPE.match(self._text, start, line)
        while not whole_line and at < line:
            piece = ARGUMENT.match(self._text, at, line)
            if not piece:  # a backslash: the separator, or the next command
                line = at + 2 * (self._text[at : at + 2] == b"\\\\")
                break
            at = piece.end()
        self._at = line
        before = start - self._start
        self._said += self._text[self._start : start]
        statement = self._said
        self._said = statement if len(statement) <= LIMIT else statement[:HEAD]
        return self._give(COMMAND, before, statement)

    # -- data -----------------------------------------------------------------------------------------------------

    def _data(self) -> Piece | None:
        r"""Return lines of a COPY, the `\.` that ends them included."""
        if self._at_line_start and (end := self._marker(self._start)):
            self._at = end
            return self._data_end()
        at = self._start
        while (at := self._text.find(b"\n\\.", at)) >= 0:
            if end := self._marker(at + 1):
                self._at = end
                return self._data_end()
            if not self._ended and at + 5 > len(self._text):
                break
            at += 1
        end = len(self._text) if at < 0 else at
        if not self._ended:
            end = max(end - 5, self._start) if at < 0 else max(at, self._start)
        if end > self._start:
            self._at = end
            self._at_line_start = False
            return self._give(DATA)
        if not self._more():
            self._copies = False
            self._take_behind()
        return None

    def _marker(self, at: int) -> int:
        r"""Return where the line `\.` that begins there ends; 0 when there is none."""
        found = MARKER.match(self._text, at)
        return found.end() if found else 0

    def _data_end(self) -> Piece:
        self._copies = False
        piece = self._give(DATA)
        self._take_behind()
        return piece

    def _take_behind(self) -> None:
        """Go on with what stands behind a COPY on its line."""
        if self._behind:
            self._text = self._text[: self._at] + self._behind + self._text[self._at :]
            self._behind = b""
            self.line -= 1
