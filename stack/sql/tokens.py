"""The words of one SQL statement, and what can be told by them."""

from __future__ import annotations

import re
from collections.abc import Iterator

_ROUTINE = re.compile(rb"create (?:or replace )?(?:function|procedure) ")
TOKEN = re.compile(
    rb"""--[^\n]*|/\*|'(?:[^']|'')*'|"(?:[^"]|"")*"|:'\w+'|:"\w+"|(?<!:):\w+"""
    rb"""|(\$(?:[A-Za-z_]\w*)?\$).*?\1|[A-Za-z_\x80-\xff][\w$\x80-\xff]*|\S""",
    re.DOTALL,
)
"""A comment, a string, a quoted name, a variable of psql's, a dollar-quoted string, a word, or a sign."""
_COMMENT = re.compile(rb"/\*|\*/")
_BLANK = re.compile(rb"(?:\s|--[^\n]*(?:\n|\Z))*")
_WORD = re.compile(rb"[A-Za-z_]+")
_ESCAPES_SETTING = b"standard_conforming_strings"
_OFF = re.compile(rb"(?i)'?(?:of|off|f|fa|fal|fals|false|n|no|0)'?")  # whatever begins such a word, to the server
_CALL = re.compile(rb"(?i)\bset_config\s*\(\s*'%b'\s*,\s*('\w*')" % _ESCAPES_SETTING)


def words_of(statement: bytes) -> list[bytes]:
    """Return the words, names, strings and signs of a statement, without comments and what is between."""
    return [match[0] for match in tokens(statement)]


def tokens(statement: bytes) -> Iterator[re.Match[bytes]]:
    """Find them, where they stand."""
    at = 0
    while match := TOKEN.search(statement, at):
        at = match.end()
        if match[0] == b"/*":
            at = _comment_end(statement, match.start())
        elif not match[0].startswith(b"--"):
            yield match


def _comment_end(statement: bytes, at: int) -> int:
    """Return where a comment ends, in which others may be."""
    depth = 0
    for found in _COMMENT.finditer(statement, at):
        depth += 1 if found[0] == b"/*" else -1
        if not depth:
            return found.end()
    return len(statement)


def copies_from_stdin(statement: bytes) -> bool:
    """Return whether a statement, or one of several that psql sends together, waits for data."""
    if b"stdin" not in statement.lower():
        return False
    words = [word.lower() for word in words_of(statement)]
    begins, copy, depth = True, False, 0
    for at, word in enumerate(words):
        if begins:
            copy = word == b"copy"
        depth += (word == b"(") - (word == b")")
        if copy and not depth and word == b"from" and words[at + 1 : at + 2] == [b"stdin"]:
            return True
        begins = word == b";" and not depth
    return False


def in_atomic_body(text: bytes) -> bool:
    """Return whether a statement is in the BEGIN ATOMIC … END of a function, by the rule that psql has for it."""
    if b"begin" not in text.lower():
        return False
    depth = parentheses = 0
    words = [word.lower() for word in words_of(text) if word[:1] not in b"'\"$"]
    if not _ROUTINE.match(b" ".join(words[:4]) + b" "):
        return False
    for word in words:
        parentheses += (word == b"(") - (word == b")")
        if not parentheses:
            depth += word == b"begin" or (depth > 0 and word == b"case")
            depth -= depth > 0 and word == b"end"
    return depth > 0


def escapes_after(statement: bytes) -> bool | None:
    """Return whether a backslash escapes in strings behind a statement; None when that says nothing of it."""
    first = first_words(statement, 1)
    if first == ["select"]:
        found = _CALL.search(statement)
        return bool(_OFF.fullmatch(found[1])) if found else None
    if first not in (["set"], ["reset"], ["discard"]):
        return None
    words = [word.lower() for word in words_of(statement)]
    if first == ["set"]:
        return any(map(_OFF.fullmatch, words)) if _ESCAPES_SETTING in words else None
    return False if {_ESCAPES_SETTING, b"all"} & set(words[1:2]) else None


def first_words(statement: bytes, count: int = 3) -> list[str]:
    """Return the first words of a statement in lower case, past comments and white space."""
    words: list[str] = []
    at = 0
    while len(words) < count and (found := _WORD.match(statement, _past_blank(statement, at))):
        words.append(found[0].decode("latin-1").lower())
        at = found.end()
    return words


def blank(text: bytes) -> bytes:
    """Return the comments and white space at the beginning of a text."""
    return text[: _past_blank(text, 0)]


def _past_blank(text: bytes, at: int) -> int:
    while found := _BLANK.match(text, at):
        at = found.end()
        if text[at : at + 2] != b"/*":
            break
        at = _comment_end(text, at)
    return at


def name_of(word: bytes) -> str:
    """Return what a word names: folded to lower case, unless it is quoted."""
    quote = word[:1]
    if quote in (b'"', b"'") and len(word) > 1:
        return text_of(word[1:-1].replace(quote * 2, quote))
    return text_of(word).lower()


def text_of(word: bytes) -> str:
    """Return a name as text; one that is no UTF-8 is taken as LATIN1."""
    try:
        return word.decode()
    except UnicodeDecodeError:
        return word.decode("latin-1")


def quoted(name: str) -> bytes:
    """Return a name as SQL has it."""
    return b'"' + name.replace('"', '""').encode() + b'"'
