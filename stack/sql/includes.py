r"""A psql script with what it includes: `\i` followed, `\if` judged, `\set` remembered."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import IO

from stack.ground.errors import Refused, StackError
from stack.sql import copies
from stack.sql.frames import Event, Frame, together
from stack.sql.lexer import Lexer
from stack.sql.pieces import COMMAND, END, PART, SQL, Piece, Readable
from stack.sql.tokens import blank, copies_from_stdin, escapes_after, words_of
from stack.sql.variables import Values, arguments, expanded, truth

DEEPEST = 200
"""Files that include one another; a file that includes itself would never end."""
_SENDS = {"g", "gx", "gset", "gexec", "gdesc", "crosstabview", "watch"}
_INCLUDES = {"i", "ir", "include", "include_relative"}
_RELATIVE = {"ir", "include_relative"}
_TYPED = "{where} has {word}, which reads what is typed beside the script, and nothing is. {instead}"
_A_FILE = "Put the data in a file, and name it there."
_A_VALUE = r"Put `\set NAME VALUE` in its place."


class Reading:
    """Gives the pieces of a script and of all that it includes, without those in branches that are not taken."""

    def __init__(self, source: Readable, file: str, beside: Path, folders: tuple[Path, ...] = ()) -> None:
        self.frames = [Frame(Lexer(source), file, beside)]
        self.folders = (Path(), *folders)
        """Where a relative path is looked for: where the user is, as psql does, then elsewhere."""
        self.found: set[Path] = set()
        """The files that were named and are there."""
        self.values = Values()
        self._next: list[Event] = []
        self.last_line = 1
        """The last line of the script itself, when it was read."""
        self.inside = ""
        """What is open at the end of the script, in words."""
        self.whole = True
        r"""False once an `\q` has left something out."""

    def branch(self, source: Readable) -> Reading:
        """Return another that goes on from here, with the script itself from `source`."""
        made = copy.copy(self)
        made.values = self.values.copy()
        made.frames = []
        for frame in self.frames:
            twin = copy.copy(frame)
            twin.lexer, twin.branches = copy.copy(frame.lexer), list(frame.branches)
            twin.lexer.source = _again(frame.lexer.source) if made.frames else source
            made.frames.append(twin)
        return made

    def close(self) -> None:
        """Close the files that are included."""
        for frame in self.frames[1:]:
            frame.close()

    def _set_escapes(self, *, on: bool) -> None:
        """Remember whether a backslash in a string stands for something."""
        for frame in self.frames:
            frame.lexer.backslash_escapes = on

    def _follow(self, statement: bytes) -> None:
        """Remember what a statement that is sent says of that."""
        if (on := escapes_after(expanded(statement, self.values))) is not None:
            self._set_escapes(on=on)

    def next(self) -> Event | None:
        """Return the next piece; None at the end. Raises StackError when a file is missing."""
        if self._next:
            return self._next.pop()
        while self.frames:
            frame = self.frames[-1]
            if frame.held:
                held, frame.held = frame.held, b""
                return self._event(Piece(PART, held, frame.lexer.line - held.count(b"\n"), statement=held))
            frame.lexer.skips = self._taken() is False
            piece = frame.lexer.next()
            if piece is None:
                if event := self._leave():
                    return event
            elif piece.kind == COMMAND:
                if event := self._command(piece):
                    return event
            elif self._taken() is not False:
                event = self._event(piece)
                if piece.kind == SQL:
                    self._follow(piece.statement)
                return self._finish(event) if piece.kind == END and len(self.frames) > 1 else event
        return None

    def _taken(self) -> bool | None:
        return together(frame.taken for frame in self.frames)

    def _event(self, piece: Piece, name: str = "", rest: bytes = b"") -> Event:
        frame = self.frames[-1]
        line = piece.line + (piece.before or blank(piece.text)).count(b"\n")
        deep = any(each.branches for each in self.frames)
        return Event(piece, name, rest, frame.file, line, self._taken() is True, deep)

    def _leave(self) -> Event | None:
        """Leave a file at its end; what includes it goes on at the beginning of a line."""
        frame = self.frames.pop()
        if not self.frames:
            self.last_line = frame.lexer.last_line
            self.inside = frame.lexer.inside if frame.taken is not False else ""
            return None
        frame.close()
        if frame.lexer.inside:
            raise StackError(
                f"{frame.file} ends in the middle: {frame.lexer.inside} in it is not closed. Mend the file, then type"
                " the command again."
            )
        if frame.branches:
            raise StackError(
                rf"{frame.file} ends in the middle: an \if in it has no \endif. Mend the file, then type the command"
                " again."
            )
        return self._event(Piece(PART, b"", self.frames[-1].lexer.line))

    def _finish(self, event: Event) -> Event:
        """Send the last statement of an included file, as psql does when it has no semicolon."""
        if self.frames[-1].lexer.inside or not words_of(event.piece.statement):
            return event
        self._next = [self.send()]
        return event._replace(piece=event.piece._replace(kind=SQL, text=event.piece.text.rstrip(b"\n") + b"\n"))

    def send(self) -> Event:
        r"""Return a `\g`, which sends a statement as it is."""
        frame = self.frames[-1]
        return self._event(Piece(COMMAND, b"\\g\n", frame.lexer.last_line), "g")

    # -- commands -------------------------------------------------------------------------------------------------

    def _command(self, piece: Piece) -> Event | None:
        """Do what a command does to the reading itself; return it when psql is to see it."""
        name, rest = _split(piece.text)
        frame, taken = self.frames[-1], self._taken()
        if name in ("if", "elif", "else", "endif"):
            return self._condition(piece, name, rest)
        if taken is False:
            return None
        event = self._event(piece, name, rest)
        self._remember(name, rest, taken=taken)
        if name in _SENDS or name in ("r", "reset"):
            frame.lexer.forget()
            if name in ("g", "gx"):
                self._follow(piece.statement)
            if name in ("g", "gx") and copies_from_stdin(piece.statement):
                frame.lexer.expect_data()
        elif name in ("c", "connect"):  # a new session
            self._set_escapes(on=False)
        elif name in _INCLUDES:
            return self._include(event)
        elif name == "copy" and (found := copies.parsed(rest)) and found.incoming:
            if found.kind == "pstdin":
                raise Refused(_TYPED.format(where=event.where, word=r"\copy … from pstdin", instead=_A_FILE))
            if found.kind == "stdin":
                frame.lexer.expect_data()
        elif name == "prompt":  # psql would take the next line of the script for the answer
            raise Refused(_TYPED.format(where=event.where, word=r"\prompt", instead=_A_VALUE))
        elif name in ("q", "quit"):
            return self._quit(event)
        return event

    def _condition(self, piece: Piece, name: str, rest: bytes) -> Event | None:
        branches = self.frames[-1].branches
        around = branches if name == "if" else branches[:-1]
        outside = together([*(frame.taken for frame in self.frames[:-1]), *(taken for taken, _ in around)])
        before = piece.before if self._taken() is not False else b""
        stray = name != "if" and not branches
        if name == "if":
            taken = truth(rest, self.values)
            branches.append((taken, taken))
        elif not stray:
            taken, done = branches.pop()
            if taken is False:
                self.frames[-1].lexer.forget()
            if name != "endif":
                now = False if done else truth(rest, self.values) if name == "elif" else True
                now = None if now and done is None else now
                branches.append((now, done or now if done is not None else None))
        if outside is False and not stray:
            return None
        event = self._event(piece._replace(before=before), name, rest)
        return event._replace(sure=outside is True)

    def _remember(self, name: str, rest: bytes, *, taken: bool | None) -> None:
        """Remember what a command does to variables."""
        if name == "gset":
            prefix = [each.value or b"" for each in arguments(rest, self.values)]
            self.values.take_result(prefix[0].decode("latin-1") if prefix else "")
        elif name in ("set", "unset", "prompt", "getenv"):
            found = arguments(rest, self.values)
            named = found[-1:] if name == "prompt" else found[:1]
            for each in named:
                variable = (each.value or b"").decode("latin-1")
                values = [each.value for each in found[1:]]
                if name == "unset" and taken:
                    self.values.remove(variable)
                elif name == "set" and taken and None not in values:
                    self.values.put(variable, b"".join(value or b"" for value in values))
                else:
                    self.values.put(variable, None)

    def _include(self, event: Event) -> Event | None:
        """Go on in another file. One that is missing is left to psql, which says so in its own words."""
        found = arguments(event.rest, self.values, names=True)
        if not found or found[0].value is None:
            return event
        typed = os.fsdecode(found[0].value)
        path = self.find(typed, relative=event.name in _RELATIVE)
        if len(self.frames) > DEEPEST:
            raise StackError(
                f"{event.where} includes {typed}, and {DEEPEST} files that include one another are open already."
                " Does a file include itself? Mend it, then type the command again."
            )
        try:
            source = path.open("rb")
        except OSError:
            return event
        frame, before = self.frames[-1], event.piece.before
        if event.piece.statement != before and words_of(event.piece.statement):
            source.close()
            raise StackError(
                rf"{event.where}: \{event.name} stands in the middle of a statement of which the server has the"
                " beginning. Put it in front of that statement, then type the command again."
            )
        frame.held = before
        self.frames.append(Frame(Lexer(source), str(path), path.parent))
        self.frames[-1].lexer.backslash_escapes = frame.lexer.backslash_escapes
        return self.next()

    def find(self, typed: str, *, relative: bool = False) -> Path:
        """Return the file that a path names: from where the user is, or beside the file that names it."""
        path = Path(typed).expanduser() if typed.startswith("~") else Path(typed)
        folders = (self.frames[-1].beside,) if relative else (*self.folders, self.frames[-1].beside)
        there = next((folder / path for folder in folders if (folder / path).is_file()), None)
        if not there:
            return folders[0] / path
        self.found.add(there)
        return there

    def _quit(self, event: Event) -> Event | None:
        r"""End the file, as `\q` does; what includes it goes on."""
        if not event.sure:
            if len(self.frames) == 1:
                return event
            raise StackError(
                rf"{event.where} says \q in an included file, where only psql knows whether it is reached. Put an \if"
                " around what it would leave out, then type the command again."
            )
        frame = self.frames[-1]
        self.last_line = frame.lexer.last_line
        ends = Piece(COMMAND, b"\\endif\n", self.last_line)
        self.whole = len(self.frames) > 1 or _is_nothing(frame.lexer)
        self._next = [self._event(ends, "endif") for _ in frame.branches]
        if words_of(event.piece.statement):
            self._next.append(self._event(Piece(COMMAND, b"\\g\n", self.last_line), "g"))
        self.frames.pop()
        if self.frames:
            frame.close()
        return event._replace(piece=event.piece._replace(kind=PART, text=event.piece.before, before=b""))


def _is_nothing(rest: Lexer) -> bool:
    """Return whether nothing is left of a script but comments, and the ends of conditions."""
    piece = rest.next()
    while piece and not words_of(piece.before + (b"" if piece.text.startswith(b"\\endif") else piece.text)):
        piece = rest.next()
    return piece is None


def _again(source: Readable) -> IO[bytes]:
    made = Path(source.name).open("rb")  # type: ignore[attr-defined]  # noqa: SIM115 - `Reading.close` closes it
    made.seek(source.tell())  # type: ignore[attr-defined]
    return made


def _split(text: bytes) -> tuple[str, bytes]:
    text = text.removesuffix(b"\\\\")[1:]
    end = next((at for at, byte in enumerate(text) if byte in b" \t\r\n\f\v"), len(text))
    name = text[:end].decode("latin-1")
    return "copy" if name.lower() == "copy" else name, text[end:].strip()  # the one that psql knows in capitals too
