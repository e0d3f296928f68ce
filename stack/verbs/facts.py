"""What is told on our databases: a mark, and facts in a comment, which anybody may have changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

MARK = 0x57AC57AC
"""The connection limit of our databases: a name may be anybody's, and CREATE DATABASE sets this along with it.

The limit that the user's database has stands among the facts, and comes back with it."""
COMMENT = '{"stack": '
"""How the comment on each of our databases begins."""
LATEST = 250_000_000_000
"""Seconds since 1970: no clock that is shown is beyond the year 9892."""


def read_facts(comment: str | None) -> dict[str, Any]:
    """Return what a comment tells, as far as it can be used: somebody may have changed it."""

    def words(value: object) -> bool:
        return isinstance(value, str) and value.isprintable()

    def clock(value: object) -> bool:
        return isinstance(value, (int, float)) and 0 <= value < LATEST

    def whole(low: int, high: int) -> Callable[[object], bool]:
        return lambda value: type(value) is int and low <= value < high

    judges: dict[str, Callable[[object], bool]] = {
        "name": lambda value: words(value) and bool(value),
        "database": lambda value: isinstance(value, str),
        "taken": clock,
        "used": clock,
        "server_version": words,
        "message": words,
        "comment": lambda value: value is None or isinstance(value, str),
        "limit": whole(-1, MARK),
        "template": lambda value: isinstance(value, bool),
        "turn": whole(0, 1 << 64),
        "used_turn": whole(0, 1 << 64),
        "convex": words,
        "convex_built": words,
        "convex_size": whole(0, 1 << 64),
        "convex_in": words,
        "pg": lambda value: isinstance(value, bool),
        "seed": words,
        "part": lambda value: isinstance(value, bool),
        "roles": lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
    }
    told = read_json(comment)
    return {name: told[name] for name, can_be in judges.items() if name in told and can_be(told[name])}


def read_json(comment: str | None) -> dict[str, Any]:
    """Return what a comment of ours tells; nothing when it is another."""
    try:
        told = json.loads(comment or "")
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def made_comment(reason: str = "") -> str:
    """Return the comment on a copy that is no snapshot."""
    return json.dumps({"stack": 2, "reason": reason} if reason else {"stack": 2})
