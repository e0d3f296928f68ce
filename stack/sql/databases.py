"""The databases that a script names: which one's content is wanted, and what is said of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from stack.ground.errors import Refused
from stack.sql.frames import Event
from stack.sql.includes import Reading
from stack.sql.pieces import COMMAND, DATA, PLAIN, SQL
from stack.sql.tokens import first_words, name_of, quoted, text_of, tokens, words_of
from stack.sql.variables import Values, arguments, expanded

MAINTENANCE = {"postgres", "template0", "template1"}
"""What every server has, and from where scripts make and drop others."""
SYSTEM = "ALTER SYSTEM in it has changed settings of the whole server, which `undo` does not take back."
"""What to say of a statement that is not about one database."""
MADE_BY_QUERY = re.compile(rb"""(?i)'\s*CREATE\s+DATABASE\s+("[^"]+"|[\w$]+)""")
CLUSTER_DUMP = b"-- PostgreSQL database cluster dump"
_VERBS = {"create", "drop", "alter", "comment", "grant", "revoke", "security"}
_OF_ALL = {"role", "user", "group", "database", "tablespace", "extension", "default", "system"}
_CONNINFO = re.compile(r"(?P<key>\w+)\s*=\s*(?:'(?P<quoted>(?:[^'\\]|\\.)*)'|(?P<plain>(?:[^\s'\\]|\\.)*))")


@dataclass
class Naming:
    """A statement about databases."""

    verb: str
    """create, drop, alter, comment, grant, revoke, or security."""
    names: list[tuple[str, int, int]]
    """Each database's name, and where it stands in the statement."""
    words: list[str]

    def instead(self, statement: bytes, name: str, other: str) -> bytes:
        """Return the statement with another name for a database."""
        for found, start, end in reversed(self.names):
            if found == name:
                statement = statement[:start] + quoted(other) + statement[end:]
        return statement


def naming(statement: bytes, values: Values) -> Naming | None:
    """Return what a statement says of databases; None for all others."""
    first = first_words(statement, 2)
    if len(first) < 2 or first[0] not in _VERBS or b"database" not in statement[: 1 << 16].lower():
        return None
    found = list(tokens(statement))
    words = [match[0].decode("latin-1").lower() for match in found]
    verb = words[0]
    if verb in ("create", "drop", "alter"):
        at = 2 if words[1] == "database" else 0
    else:
        on = next((at for at, word in enumerate(words[:-1]) if word == "on" and words[at + 1] == "database"), None)
        at = on + 2 if on is not None else 0
    if not at:
        return None
    at += 2 * (words[at : at + 2] == ["if", "exists"])
    names = []
    while at < len(found):
        names.append((name_of(expanded(found[at][0], values)), *found[at].span()))
        if words[at + 1 : at + 2] != [","]:
            break
        at += 2
    return Naming(verb, names, words)


def after_in_database(statement: bytes) -> tuple[int, int] | None:
    """Return where the name stands behind IN DATABASE."""
    found = list(tokens(statement))
    words = [match[0].lower() for match in found]
    for at in range(len(found) - 2):
        if words[at : at + 2] == [b"in", b"database"]:
            return found[at + 2].span()
    return None


def owner(statement: bytes) -> list[str]:
    """Return whom a new database is to belong to."""
    words = words_of(statement)
    for at, word in enumerate(words[:-1]):
        if word.lower() == b"owner":
            return [name_of(words[at + 1 + (words[at + 1] == b"=")])]
    return []


@dataclass
class Target:
    r"""Where `\connect` leads."""

    database: str
    """Empty when it stays where it is, or only psql knows."""
    user: str = ""


def target(event: Event, values: Values) -> Target:
    r"""Return where a `\connect` leads, in each of its spellings."""
    found = arguments(event.rest, values, names=True)
    if found and (found[0].value or b"").startswith(b"-reuse-previous="):
        found = found[1:]
    said = ["" if each.value in (None, b"-") else text_of(each.value or b"") for each in found]
    first, user = [*said, "", ""][:2]
    if re.match(r"postgres(?:ql)?://", first):
        parts = urlsplit(first)
        query = parse_qs(parts.query)
        return Target(
            unquote(parts.path[1:]) or query.get("dbname", [""])[0],
            unquote(parts.username or "") or query.get("user", [""])[0],
        )
    if "=" in first:
        pairs = {
            found["key"]: re.sub(r"\\(.)", r"\1", found["quoted"] if found["quoted"] is not None else found["plain"])
            for found in _CONNINFO.finditer(first)
        }
        return Target(pairs.get("dbname", ""), pairs.get("user", ""))
    return Target(first, user)


@dataclass
class Survey:
    """What a script does with databases, as far as it was read."""

    content: dict[str, int] = field(default_factory=dict)
    """For each database that it connects to, in order: how many of its statements make something."""
    created: set[str] = field(default_factory=set)
    at: str = ""
    """The database that it is in; empty at first."""

    def take(self, event: Event, values: Values) -> None:
        """Look at one piece."""
        kind = event.piece.kind
        if kind == COMMAND:
            if event.name in ("c", "connect"):
                self.at = target(event, values).database or self.at
                self.content.setdefault(self.at, 0)
            elif event.name == "gexec" and (made := MADE_BY_QUERY.search(expanded(event.piece.statement, values))):
                self.created.add(name_of(made[1]))
        elif kind in (PLAIN, DATA):
            self._count()
        elif kind == SQL:
            if found := naming(event.piece.statement, values):
                self.created.update(name for name, _, _ in found.names if found.verb == "create")
            elif _is_content(first_words(event.piece.statement)):
                self._count()

    def _count(self) -> None:
        self.content[self.at] = self.content.get(self.at, 0) + 1

    def candidates(self) -> list[str]:
        """Return the databases whose content could be meant."""
        own = [name for name in self.content if name and name not in MAINTENANCE - {"postgres"}]
        full = [name for name in own if self.content[name]]
        return full or [name for name in own if name != "postgres"][:1]


def survey(reading: Reading, first: Survey) -> Survey:
    """Read a script to its end, and return what it does with databases."""
    while event := reading.next():
        first.take(event, reading.values)
    return first


def choose(found: Survey, pick: str, file: str) -> str:
    """Return the database whose content is wanted; empty when the script stays in one. Raises Refused for several."""
    names = found.candidates()
    known = [*names, *(name for name in found.content if name and name not in names and name not in MAINTENANCE)]
    if pick and pick not in known:
        has = f"has {_listed(known)}" if known else "names no database; leave --database out"
        raise Refused(f"{file} has no content for a database {pick!r}: it {has}. Nothing was done.")
    if len(names) > 1 and not pick:
        raise Refused(
            f"{file} has the content of {len(names)} databases: {_listed(names)}. Nothing was done. Add `--database"
            " NAME` with the one that is wanted."
        )
    return pick or (names[0] if names else "")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _is_content(words: list[str]) -> bool:
    """Return whether a statement makes something in the database that it is run in."""
    if not words or words[0] not in ("create", "copy", "alter", "insert", "update", "merge", "with"):
        return False
    return words[0] not in ("create", "alter") or not _OF_ALL & set(words[1:2])
