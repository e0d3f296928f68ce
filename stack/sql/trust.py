"""What a script from elsewhere may not do: run or write something on the user's machine, as psql's commands can."""

from __future__ import annotations

import re
import secrets

from stack.ground.errors import Refused
from stack.sql import copies
from stack.sql.frames import Event
from stack.sql.pieces import COMMAND
from stack.sql.tokens import first_words, words_of
from stack.sql.variables import Values, arguments

_WRITES = {
    "!", "o", "out", "w", "write", "s", "e", "edit", "ef", "ev", "cd", "setenv", "lo_export", "log", "password",
}  # fmt: skip
_HIDDEN = re.compile(rb"\\(?:endif|else|elif)")
_HALF = re.compile(rb"[\x80-\xff]\\")
_WHOLE_LINE = {"copy", "sf", "sf+", "sv", "sv+", "h", "help"}


class Guard:
    r"""Refuses those commands, and keeps psql from all that this did not see, by psql's own `\restrict`.

    What a script makes psql take for a command that is none to us (by another encoding, by other rules for strings, by
    a COPY that fails) psql does not run: the script does not know the key.
    """

    def __init__(self) -> None:
        key = secrets.token_hex(16)
        self.first = rf"\restrict {key}".encode() + b"\n"
        self.last = rf"\unrestrict {key}".encode() + b"\n"
        self._opened = self.last
        self._closed = rf"\restrict {key}".encode()
        self._tail = b""
        self._theirs = False

    def check(self, event: Event, values: Values) -> None:
        """Raise Refused for what may not be done."""
        piece = event.piece
        if piece.kind == COMMAND:
            if word := _forbidden(event, values):
                raise refused(event.where, word)
        elif first_words(piece.statement, 1) == ["copy"] and b"program" in map(bytes.lower, words_of(piece.statement)):
            raise refused(event.where, "COPY … PROGRAM")
        looked_at = self._tail + piece.before + piece.text
        self._tail = looked_at[-8:] if piece.kind != COMMAND else b""
        if event.conditional and piece.kind != COMMAND and _HIDDEN.search(looked_at):
            raise refused(event.where, r"\endif in text, between an \if and its \endif")

    def opened(self, event: Event) -> bytes:
        r"""Return a command as psql takes it in between, from the start of a line.

        psql 17.12 takes all behind `\unrestrict` on its line for the key. A line of commands alone adds nothing to
        the statement that psql has begun to read.
        """
        text = event.piece.text
        if event.name in ("restrict", "unrestrict"):  # ours is in force instead
            self._theirs = event.name == "restrict"
            return b"\n" * text.endswith(b"\n")
        if self._theirs:  # psql says no, as it would
            return text
        end = b"\n" if text.endswith(b"\n") else b" "
        body = text.rstrip(b"\r\n").removesuffix(b"\\\\")
        if event.name in _WHOLE_LINE:
            return self._opened + body + b"\n" + self._closed + b"\n"
        return self._opened + body + rb" \\" + self._closed + (b"\n" if end == b"\n" else rb" \\")


def refused(where: str, word: str) -> Refused:
    """Return what to say of a command that may not be run."""
    return Refused(
        f"{where} has {word}, which runs or writes something on your machine, and a file from elsewhere may not do"
        " that. It was not run, and nothing of the file was kept. Look at that line; if you trust the file, type the"
        " command again with `--trust`."
    )


def _forbidden(event: Event, values: Values) -> str:
    name, rest = event.name, event.rest
    if name in _WRITES and (name != "o" or rest):
        return f"\\{name}"
    if name in ("g", "gx") and re.sub(rb"\A\s*\([^)]*\)", b"", rest).strip():
        return f"\\{name} with a place to write to"
    if name == "copy":
        for escapes in (False, True):  # a function may have set which
            found = copies.parsed(rest, escapes=escapes)
            if found and (found.kind == "program" or (not found.incoming and found.kind == "file")):
                return r"\copy … program" if found.kind == "program" else r"\copy … to a file"
        return r"\copy with a backslash that may be half a letter" if _HALF.search(rest) else ""
    if name not in _WHOLE_LINE and any(each.runs for each in arguments(rest, values)):
        return f"backquotes (behind \\{name})"
    return ""
