"""CREATE ROLE as what makes the same of a role that is there already, bare."""

from __future__ import annotations

import re

from stack.sql.roles import list_from
from stack.sql.tokens import quoted, tokens


def altered(statement: bytes, name: str) -> bytes:
    """Return the statements that give a bare role all that a CREATE ROLE, USER or GROUP says of it."""
    found = list(tokens(statement))[3:]
    words = [match[0] for match in found]
    low = [word.decode("latin-1").lower() for word in words]
    kept, role, grants = b"", quoted(name), b""
    at = 0
    while at < len(found):
        begin = at + 2 if low[at] == "in" else at + 1
        if low[at] in ("in", "role", "user", "admin"):
            others = list_from(words, low, begin)
            grants += b"".join(_grant(low[at], role, quoted(other)) for other in others)
            at = begin + 2 * len(others) - 1
        elif low[at] == "sysid":
            at += 2
        else:
            gap = b" " * (at > 0 and found[at - 1].end() < found[at].start())
            kept += (gap + words[at]) * (low[at] not in (";", "with"))
            at += 1
    if re.match(rb"(?i)\s*create\s+user\b", statement) and not {"login", "nologin"} & set(low):
        kept += b" LOGIN"
    return (b" ALTER ROLE " + role + b" WITH " + kept.strip() + b";" if kept.strip() else b"") + grants


def _grant(word: str, role: bytes, other: bytes) -> bytes:
    if word == "in":
        return b" GRANT " + other + b" TO " + role + b";"
    return b" GRANT " + role + b" TO " + other + (b" WITH ADMIN OPTION;" if word == "admin" else b";")
