"""The roles that statements name."""

from __future__ import annotations

from collections.abc import Iterable

from stack.sql.lexer import Lexer
from stack.sql.pieces import SQL, Readable
from stack.sql.tokens import first_words, name_of, words_of

_NOBODY = {"public", "current_user", "session_user", "current_role", "user", "none", "default"}
_MAY = {"alter", "grant", "revoke", "create", "set", "reassign"}
_CREATES = {"schema", "policy", "user"}


def roles_in(reader: Readable) -> set[str]:
    """Return the roles that a script of SQL names, as `pg_restore -f -` prints one."""
    found: set[str] = set()
    lexer = Lexer(reader)
    while piece := lexer.next():
        if piece.kind == SQL:
            found.update(named(piece.statement))
    return found


def named(statement: bytes) -> list[str]:
    """Return the roles without which a statement fails: those that own, that may do something, that it turns into."""
    first = first_words(statement, 2)
    if not first or first[0] not in _MAY or (first[0] == "create" and first[-1] not in _CREATES):
        return []
    words = words_of(statement)
    low = [word.decode("latin-1").lower() for word in words]
    found = _FIND.get(low[0], _create)(words, low)
    return list(dict.fromkeys(role for role in found if not role.startswith(("pg_", ":"))))


def members(statement: bytes) -> list[str]:
    """Return whom a GRANT or REVOKE of roles is about."""
    words = words_of(statement)
    low = [word.decode("latin-1").lower() for word in words]
    last = _last(low, "to") or _last(low, "from")
    return list_from(words, low, last + 1) if last else []


def _alter(words: list[bytes], low: list[str]) -> list[str]:
    found: list[str] = []
    for at, word in enumerate(low):
        if word == "owner" and low[at + 1 : at + 2] == ["to"]:
            found += list_from(words, low, at + 2)[:1]
    if low[1:3] == ["default", "privileges"]:
        for_role = [at for at, word in enumerate(low) if word == "for" and low[at + 1 : at + 2] in (["role"], ["user"])]
        found += [role for at in for_role for role in list_from(words, low, at + 2)] + _grant(words, low)
    if low[1] == "policy" and "to" in low and "rename" not in low:
        found += list_from(words, low, low.index("to") + 1)
    if low[1:3] == ["user", "mapping"]:
        found += list_from(words, low, low.index("for") + 1)
    if low[1] == "group":
        found += list_from(words, low, 2)
    return found


def _create(words: list[bytes], low: list[str]) -> list[str]:
    found: list[str] = []
    if low[1] == "schema" and "authorization" in low[:7]:
        found += list_from(words, low, low.index("authorization") + 1)[:1]
    if low[1] == "policy":
        ends = [at for at, word in enumerate(low) if word in ("using", "check")]
        to = [at for at, word in enumerate(low[: min(ends, default=len(low))]) if word == "to"]
        found += [role for at in to for role in list_from(words, low, at + 1)]
    if low[1:3] == ["user", "mapping"]:
        found += list_from(words, low, low.index("for") + 1)
    return found


def _grant(words: list[bytes], low: list[str]) -> list[str]:
    """Return who is given something or loses it; without an ON, what is given are roles themselves."""
    last = _last(low, "to") or _last(low, "from")
    found = list_from(words, low, last + 1) if last else []
    found += [role for at, word in enumerate(low) if word == "granted" for role in list_from(words, low, at + 2)]
    if low[0] in ("grant", "revoke") and "on" not in low and last:
        options = ("admin", "inherit", "set", "grant")
        begin = 4 if low[1] in options and low[2:4] == ["option", "for"] else 1
        found += list_from(words, low, begin)
    return found


def _set(words: list[bytes], low: list[str]) -> list[str]:
    at = 2 if low[1:2] in (["local"], ["session"]) and low[2:3] != ["authorization"] else 1
    if low[at : at + 1] == ["role"]:
        return list_from(words, low, at + (2 if low[at + 1 : at + 2] in (["to"], ["="]) else 1))[:1]
    if low[at : at + 2] == ["session", "authorization"]:
        return list_from(words, low, at + 2)[:1]
    return []


def _reassign(words: list[bytes], low: list[str]) -> list[str]:
    return [role for word in ("by", "to") if word in low for role in list_from(words, low, low.index(word) + 1)]


def list_from(words: list[bytes], low: list[str], at: int) -> list[str]:
    """Return the names of a list that begins there."""
    found: list[str] = []
    while at < len(words):
        if low[at] in ("group", "role") and at + 1 < len(low) and low[at + 1] not in (",", ";"):
            at += 1
        if low[at] not in _NOBODY and (words[at][:1].isalpha() or words[at][:1] in b"\"'_" or words[at][0] > 127):
            found.append(name_of(words[at]))
        if low[at + 1 : at + 2] != [","]:
            break
        at += 2
    return found


def _last(low: Iterable[str], word: str) -> int:
    return max((at for at, each in enumerate(low) if each == word), default=0)


_FIND = {"alter": _alter, "grant": _grant, "revoke": _grant, "set": _set, "reassign": _reassign}
