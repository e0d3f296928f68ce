"""A psql script as psql is to have it: in one database, with its files in it, and its lines still to be told."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, Protocol

from stack.ground.errors import Refused
from stack.sql import copies, databases
from stack.sql.frames import Event
from stack.sql.includes import Reading
from stack.sql.lines import Lines
from stack.sql.pieces import COMMAND, END, SQL, Readable
from stack.sql.statements import Statements
from stack.sql.tokens import blank, first_words, words_of
from stack.sql.trust import Guard
from stack.sql.variables import expanded

ENOUGH = 1 << 16
"""Bytes that are given at once."""
_BINARY = (
    r"{where} has \copy of a file in binary format, which cannot be sent in the middle of a script to psql in the"
    " container. Copy it there: `docker cp {path} CONTAINER:/tmp/{name}`; and let the server read it:"
    " `COPY … FROM '/tmp/{name}' (FORMAT binary);`. Or write the data as text or CSV."
)
_IN_THE_MIDDLE = (
    r"{where} has a \copy in the middle of a statement of which psql has the beginning. Put it in front of that"
    " statement."
)
_NULLS = (
    "{where} reads {path}, which has null bytes: it is UTF-16, or no text. Write it anew:"
    " `iconv -f UTF-16 -t UTF-8 {path} > NEW`, and name that."
)
_RETURNS = (
    "{where} reads {path}, whose lines end with CR alone, which psql cannot be sent in a script. Write it anew:"
    r" `tr '\r' '\n' < {path} > NEW`, and name that."
)
_SWALLOWS = {"a string", "a quoted name", "a comment", "a dollar-quoted string"}
_SHARED = {"role", "user", "group", "tablespace", "database"}
_SAID = re.compile(r"psql:<stdin>:(\d+):")


class Named(Readable, Protocol):
    """A file that is read."""

    @property
    def name(self) -> str:
        """What it is called."""


class Script:
    r"""Reads a script, and gives psql what it is to run.

    Args:
        source: the script; relative to its own place, and to where the user is, are the files that it names.
        into: the database that psql is in, and stays in; empty when the script is run as it is, but for its files.
        name: what the user calls that database.
        pick: the database whose content is wanted, of a script with several.
        trust: whether commands may run and write things on the user's machine.
        missing: is told each role before a statement that names it, makes it if the server has none, and returns
            whether it did. None: roles are left to the script.
        inline: whether psql runs elsewhere, so that files come to it in the script.
        session: SQL to be run after each `\connect`, which resets the session.
        mark: SQL to be run behind each statement that makes roles unseen, in its transaction.
        restricts: whether psql has `\restrict` (17.6 and newer).
        file: what to call the script.
        beside: where to look for files that are not where the user is; else where the script is.

    """

    def __init__(
        self,
        source: Named,
        *,
        into: str,
        name: str,
        pick: str = "",
        trust: bool = True,
        missing: Callable[[str], bool | None] | None = None,
        inline: bool = True,
        session: str = "",
        mark: str = "",
        restricts: bool = True,
        file: str = "",
        beside: Path | None = None,
    ) -> None:
        self.notes: list[str] = []
        self._file = file or source.name
        self._reading = Reading(source, self._file, beside or Path(self._file).parent)
        self.reads = self._reading.found  # the files that it names and that are there, as far as it was read
        self._statements = Statements(
            into=into, name=name, session=session, mark=mark, missing=missing, notes=self.notes
        )
        self._inline, self._into, self._pick = inline, into, pick
        self._guard = None if trust else Guard()
        self._lines = Lines()
        self._surveyed = not into
        self._source: Readable = source
        self._given = self._closing(self._give(restricts=restricts))
        self.unfinished = False
        """True behind a last statement without a semicolon."""
        self._spool: IO[bytes] | None = None

    def read(self, size: int = ENOUGH) -> bytes:
        """Return the next bytes for psql, about `size` of them; empty at the end."""
        parts, length = list[bytes](), 0
        while length < min(size, ENOUGH) and (part := next(self._given, b"")):
            parts.append(part)
            length += len(part)
        return b"".join(parts)

    def where(self, line: int) -> str:
        """Return the file and the line of it that psql calls `line`."""
        return self._lines.where(line)

    def words(self, said: str) -> str:
        """Return what psql said with the files and lines of the user."""
        return _SAID.sub(lambda found: f"psql:{self.where(int(found[1]))}:", said)

    def close(self) -> None:
        """Close what was opened for it, when it is not read to its end."""
        self._given.close()

    @property
    def whole(self) -> bool:
        r"""False when the script ended itself with `\q`, and something follows that."""
        return self._reading.whole

    @property
    def inside(self) -> str:
        """What is open at the end of the script, in words; empty when nothing is. What follows it would be in it."""
        return self._reading.inside

    # -- pieces ---------------------------------------------------------------------------------------------------

    def _closing(self, given: Iterator[bytes]) -> Generator[bytes, None, None]:
        try:
            yield from given
        finally:
            self._reading.close()
            if self._spool:
                self._spool.close()

    def _give(self, *, restricts: bool) -> Iterator[bytes]:
        if self._pick:
            self._survey(None)
        if self._guard and restricts:
            yield self._lines.put(self._guard.first, self._file, 1)
        while event := self._reading.next():
            if not self._surveyed and self._asks_for_survey(event):
                self._survey(event)
            if self._guard:
                self._guard.check(event, self._reading.values)
            if self._lines.moves(event.file):
                yield self._lines.newline()
            yield from filter(None, self._piece(event, restricts=restricts))
        line = self._reading.last_line
        if self._reading.inside in _SWALLOWS:
            return
        yield self._lines.end(self._file, line)
        if self.unfinished and self._statements.held:
            yield self._lines.put(b";\n", self._file, line)
        for event, text in self._statements.held:
            yield self._lines.put(text[len(blank(text)) :].rstrip() + b"\n", event.file, event.line)
            if event.piece.kind == COMMAND:
                yield self._opened(event, restricts=restricts)
        if self._guard and restricts:
            yield self._lines.put(self._guard.last, self._file, line, stays=True)
        self._statements.finish()

    def _piece(self, event: Event, *, restricts: bool) -> Iterator[bytes]:
        piece, statements = event.piece, self._statements
        if piece.kind == COMMAND:
            yield from self._command(event, restricts=restricts)
        elif piece.kind not in (SQL, END):
            if not statements.left_out(event):
                yield self._lines.put(piece.text, event.file, piece.line)
        else:
            self.unfinished = piece.kind == END and bool(words_of(piece.statement))
            statement = expanded(piece.statement, self._reading.values)
            given = statements.take(event, statement, self._reading)
            yield self._lines.put(given, event.file, piece.line)

    def _command(self, event: Event, *, restricts: bool) -> Iterator[bytes]:
        statements = self._statements
        if event.name in ("c", "connect") and self._into:
            text = statements.connect(event, self._reading.values)
            yield self._lines.put(text, event.file, event.line)
            yield self._before(event)
            return
        if event.name == "copy" and (found := copies.parsed(event.rest)) and found.incoming:
            if not statements.left_out(event):
                yield from self._copy(event, found, restricts=restricts)
            return
        if statements.leaves_out_command(event, self._reading.values):
            return
        first, last = statements.around(event, self._reading.values)
        yield self._lines.put(first, event.file, event.line)
        yield self._before(event)
        yield self._opened(event, restricts=restricts)
        yield self._lines.put(last, event.file, event.line, stays=True)

    def _before(self, event: Event) -> bytes:
        return self._lines.put(event.piece.before, event.file, event.piece.line)

    def _opened(self, event: Event, *, restricts: bool) -> bytes:
        if not (self._guard and restricts):
            return self._lines.put(event.piece.text, event.file, event.line)
        text = b"\n" * (not self._lines.at_start) + self._guard.opened(event)
        return self._lines.put(text, event.file, event.line, stays=True)

    def _copy(self, event: Event, found: copies.Copy, *, restricts: bool) -> Iterator[bytes]:
        r"""Give the file of a `\copy`, which is the user's, to a psql that may run elsewhere."""
        piece = event.piece
        path = self._reading.find(found.path.decode(errors="surrogateescape"))
        if found.kind != "file" or not path.is_file():
            # No data between two commands, lest the COPY fails.
            as_sql = found.kind == "stdin" and self._guard and restricts
            if as_sql and words_of(piece.statement):
                raise Refused(_IN_THE_MIDDLE.format(where=event.where))
            yield self._before(event)
            sql = found.sql() + b"\n"
            yield self._lines.put(sql, event.file, event.line) if as_sql else self._opened(event, restricts=restricts)
            return
        if not self._inline:
            typed = b"'" + bytes(path.absolute()).replace(b"'", b"''") + b"'"
            text = b"\\copy " + found.table.strip() + b" from " + typed + b" " + found.options.strip() + b"\n"
            yield self._before(event)
            yield self._opened(event._replace(piece=piece._replace(text=text)), restricts=restricts)
            return
        yield from self._copy_inline(event, found, path)

    def _copy_inline(self, event: Event, found: copies.Copy, path: Path) -> Iterator[bytes]:
        if found.binary:
            raise Refused(_BINARY.format(where=event.where, path=path, name=path.name))
        if words_of(event.piece.statement) and event.piece.statement != event.piece.before:
            raise Refused(_IN_THE_MIDDLE.format(where=event.where))
        with path.open("rb") as file:
            lines = copies.Lines(file)
            if lines.nulls:
                raise Refused(_NULLS.format(where=event.where, path=path))
            if lines.lone_returns:
                raise Refused(_RETURNS.format(where=event.where, path=path))
            yield self._lines.put(found.sql() + b"\n", event.file, event.line, stays=True)
            while text := lines.read():
                yield self._lines.put(text, event.file, event.line, stays=True)
        yield self._before(event)

    # -- ahead ----------------------------------------------------------------------------------------------------

    def _asks_for_survey(self, event: Event) -> bool:
        """Return whether what comes must be known first: when it speaks of databases, or of what all of them share."""
        if event.piece.kind == COMMAND:
            return event.name in ("c", "connect") or (
                event.name == "gexec" and bool(databases.MADE_BY_QUERY.search(event.piece.statement))
            )
        if event.piece.kind != SQL:
            return False
        first = first_words(event.piece.statement, 2)
        return (first[:1] in (["create"], ["drop"], ["alter"]) and first[-1] in _SHARED) or bool(
            databases.naming(event.piece.statement, self._reading.values)
        )

    def _survey(self, event: Event | None) -> None:
        """Read the script to its end, and keep it, before psql gets what comes now."""
        self._surveyed = True
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - it ends with the script
        reading = self._reading.branch(_Kept(self._reading.frames[0].lexer.source, self._spool))
        found = databases.Survey()
        try:
            while event := event or reading.next():
                if self._guard:
                    self._guard.check(event, reading.values)
                found.take(event, reading.values)
                event = None
        finally:
            reading.close()
        self._spool.seek(0)
        self._reading.frames[0].lexer.source = self._spool
        self._statements.decide(found, self._pick, self._file)


class _Kept:
    """A source, of which a copy is kept."""

    def __init__(self, source: Readable, copy: IO[bytes]) -> None:
        self._source, self._copy = source, copy

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        chunk = self._source.read(size)
        self._copy.write(chunk)
        return chunk
