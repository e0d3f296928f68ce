"""What psql makes of the arguments of its commands: quotes, variables, and the truth of a condition."""

from __future__ import annotations

import re
from typing import NamedTuple

_PIECE = re.compile(
    rb"""(?P<space>\s+)|'(?P<single>(?:[^'\\]|\\.|'')*)'|"(?P<double>(?:[^"]|"")*)"|`(?P<back>[^`]*)`"""
    rb"""|:'(?P<literal>\w+)'|:"(?P<name>\w+)"|:\{\?(?P<is_set>\w+)\}|:(?P<variable>\w+)|[^\s'"`:]+|.|(?P<end>\Z)""",
    re.DOTALL,
)
_ESCAPE = re.compile(rb"''|\\(?:(?P<octal>[0-7]{1,3})|x(?P<hex>[0-9A-Fa-f]{1,2})|.)", re.DOTALL)
_VARIABLE = re.compile(rb"""(?<!:):(['"]?)(\w+)\1""")


class Values:
    """Psql's variables, as far as a script tells of them."""

    def __init__(self) -> None:
        self._known: dict[str, bytes | None] = {}
        self._perhaps: set[str] = set()

    def put(self, name: str, value: bytes | None) -> None:
        """Set a variable; None is a value that only psql knows, or that nobody knows to be set."""
        self._known[name] = value

    def remove(self, name: str) -> None:
        """Unset a variable."""
        self._known.pop(name, None)

    def get(self, name: str) -> bytes | None:
        """Return a variable's value; None when it has none that is known."""
        return self._known.get(name)

    def take_result(self, prefix: str) -> None:
        r"""Forget what `\gset` may have set."""
        self._perhaps.add(prefix)
        for name in self._known:
            if name.startswith(prefix):
                self._known[name] = None

    def has(self, name: str) -> bool | None:
        """Return whether a variable is set; None when only psql knows, as of its own, which are written LIKE_THIS."""
        if name in self._known:
            return None if self._known[name] is None or name.isupper() else True
        return None if name.isupper() or name.startswith(tuple(self._perhaps)) else False

    def copy(self) -> Values:
        """Return a copy."""
        made = Values()
        made._known, made._perhaps = dict(self._known), set(self._perhaps)
        return made

    def __bool__(self) -> bool:
        return bool(self._known)


class Argument(NamedTuple):
    """One argument of a command."""

    value: bytes | None
    """None when only psql knows it."""
    quoted: bool = False
    runs: bool = False
    """True when backquotes in it run a program."""


def arguments(text: bytes, values: Values, *, names: bool = False) -> list[Argument]:
    """Return the arguments of a command; `names`: as those are read that take names, which " quotes."""
    found: list[Argument] = []
    value: bytes | None = b""
    begun = quoted = runs = False
    for piece in _PIECE.finditer(text):
        if piece["space"] or piece["end"] is not None:
            if begun:
                if names and not quoted and value is not None:
                    value = value.rstrip(b";")
                found.append(Argument(value, quoted, runs))
            value, begun, quoted, runs = b"", False, False, False
            continue
        begun = True
        quoted |= piece["single"] is not None or piece["double"] is not None
        runs |= piece["back"] is not None
        part = _part(piece, values, names=names)
        value = None if value is None or part is None else value + part
    return found


def _part(piece: re.Match[bytes], values: Values, *, names: bool) -> bytes | None:
    if piece["single"] is not None:
        return _ESCAPE.sub(_unescape, piece["single"])
    if piece["double"] is not None:
        return piece["double"].replace(b'""', b'"') if names else piece[0]
    if piece["is_set"]:
        return {None: None, True: b"TRUE", False: b"FALSE"}[values.has(piece["is_set"].decode())]
    if variable := piece["variable"] or piece["literal"] or piece["name"]:
        return _value(piece, variable.decode(), values)
    return None if piece["back"] is not None else piece[0]


def _value(piece: re.Match[bytes], name: str, values: Values) -> bytes | None:
    if not values.has(name):
        return piece[0] if values.has(name) is False else None
    value = values.get(name)
    if value is None or piece["variable"]:
        return value
    quote = b"'" if piece["literal"] else b'"'
    return quote + value.replace(quote, quote * 2) + quote


def expanded(statement: bytes, values: Values) -> bytes:
    """Return a statement with those of psql's variables in their place that are known; for looking at, not to run."""
    if b":" not in statement or not values:
        return statement

    def value(found: re.Match[bytes]) -> bytes:
        name = (found[2] or b"").decode()
        known = values.get(name)
        if known is None:
            return found[0]
        quote = found[1]
        return quote + known.replace(quote, quote * 2) + quote if quote else known

    return _VARIABLE.sub(value, statement)


def truth(text: bytes, values: Values) -> bool | None:
    r"""Return what `\if` makes of its arguments; None when only psql knows."""
    found = arguments(text, values)
    if any(each.value is None for each in found):
        return None
    said = b" ".join(each.value or b"" for each in found).lower().decode("latin-1")
    # psql complains of anything else, and takes it for false.
    return said in ("1", "on") or bool(said and ("true".startswith(said) or "yes".startswith(said)))


def _unescape(found: re.Match[bytes]) -> bytes:
    said = found[0]
    if said == b"''":
        return b"'"
    if found["octal"]:
        return bytes([int(found["octal"], 8) & 255])
    if found["hex"]:
        return bytes([int(found["hex"], 16)])
    return {b"n": b"\n", b"t": b"\t", b"b": b"\b", b"r": b"\r", b"f": b"\f"}.get(said[1:], said[1:])
