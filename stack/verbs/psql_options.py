"""The options of psql, read as psql reads them: which name a file of the user's, and which another database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from stack.ground.errors import Refused

_LONG = {
    "echo-all": "a", "no-align": "A", "command=": "c", "dbname=": "d", "echo-queries": "e", "echo-errors": "b",
    "echo-hidden": "E", "file=": "f", "field-separator=": "F", "field-separator-zero": "z", "host=": "h", "html": "H",
    "list": "l", "log-file=": "L", "no-readline": "n", "single-transaction": "1", "output=": "o", "port=": "p",
    "pset=": "P", "quiet": "q", "record-separator=": "R", "record-separator-zero": "0", "single-step": "s",
    "single-line": "S", "tuples-only": "t", "table-attr=": "T", "username=": "U", "set=": "v", "variable=": "v",
    "version": "V", "no-password": "w", "password": "W", "expanded": "x", "no-psqlrc": "X", "help": "?", "csv": "csv",
}  # fmt: skip
_VALUED = "cdfFhLopPRTUv"
_ACTS = ("c", "f", "l", "V", "?")
"""What is done in the place of reading stdin."""


@dataclass
class Options:
    """What psql is to do."""

    words: list[tuple[str, str]] = field(default_factory=list)
    """Each option with its value, -c and -f in the order in which they were given."""
    database: str = ""
    user: str = ""

    @property
    def files(self) -> list[str]:
        """The files to run, in order; - is stdin."""
        return [value for option, value in self.words if option == "-f"]

    @property
    def commands(self) -> list[str]:
        """The commands to run, in order."""
        return [value for option, value in self.words if option == "-c"]

    @property
    def acts(self) -> bool:
        """Whether it does something else than to read stdin."""
        return any(option[:2].lstrip("-") in _ACTS or option.startswith("--help") for option, _ in self.words)

    def last(self, option: str) -> str:
        """Return the value that counts of an option that may stand there several times."""
        return next((value for name, value in reversed(self.words) if name == option), "")


def read(command: Sequence[str], file: str, words: Sequence[str]) -> Options:
    """Return what psql is asked for by our own options and by words of its own.

    Raises Refused when they lead to another server.
    """
    found = Options([*(("-c", sql) for sql in command), *[("-f", file)] * bool(file)])
    names = []
    for option, value in _each(words):
        if option in ("-h", "-p"):
            raise Refused(
                f"psql {option} {value} would lead to another server than this stack's. Nothing was done. Leave it out;"
                " for another server type psql itself, or set STACK_ENGINE=external and DATABASE_URL."
            )
        if option == "-d":
            found.database = value
        elif option == "-U":
            found.user = value
        elif not option:
            names.append(value)
        else:
            found.words.append((option, value))
    for name in names:  # as psql does: the first free one is the database, the next the user
        if not found.database:
            found.database = name
        elif not found.user:
            found.user = name
        else:
            raise Refused(
                f"psql has no use for the word {name!r}. Nothing was done. Leave it out, or type -c before it."
            )
    if "=" in found.database or "://" in found.database:
        raise Refused(
            "A connection string would lead to another server than this stack's. Nothing was done. Type the name of a"
            " database alone; for another server type psql itself, or set STACK_ENGINE=external and DATABASE_URL."
        )
    return found


def _each(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each option with its value, and each free word with an empty option, as getopt_long does."""
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            yield from (("", each) for each in left)
            return
        if word.startswith("--"):
            yield _long(word, left)
        elif word.startswith("-") and len(word) > 1:
            yield from _short(word[1:], left)
        else:
            yield "", word


def _long(word: str, left: list[str]) -> tuple[str, str]:
    name, equals, value = word[2:].partition("=")
    like = {letter: long for long, letter in _LONG.items() if long.startswith(name)}
    exact = {letter: long for letter, long in like.items() if long.rstrip("=") == name}
    like = exact or like
    letter, long = next(iter(like.items())) if len(like) == 1 else ("", "")
    if letter in ("", "?", "csv") or bool(equals) > long.endswith("="):
        return word, ""  # --help=variables; and what it does not know psql itself says
    if not long.endswith("="):
        return f"-{letter}", ""
    return f"-{letter}", value if equals else _value(word, left)


def _short(letters: str, left: list[str]) -> Iterator[tuple[str, str]]:
    for place, letter in enumerate(letters):
        if letter in _VALUED:
            yield f"-{letter}", letters[place + 1 :] or _value(f"-{letter}", left)
            return
        yield f"-{letter}", ""


def _value(option: str, left: list[str]) -> str:
    if not left:
        raise Refused(f"psql {option} needs a value. Nothing was done. Type `invoke psql -- --help`.")
    return left.pop(0)
