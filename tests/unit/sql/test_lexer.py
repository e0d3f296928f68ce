"""Scripts cut into pieces: nothing is lost, however they come in, and as fast as they must be."""

# ruff: noqa: E501 - a script stands on one line with what it is called
import io
import re
import time
import tracemalloc
from codecs import BOM_UTF8

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stack.sql import lexer
from stack.sql.lexer import Lexer
from stack.sql.pieces import DATA, PART, PLAIN, Piece

FRAGMENTS = [
    "SELECT 1;", "INSERT INTO t VALUES (1, 'a');", "INSERT INTO t VALUES ('it''s', E'x\\'y');\n", ";", "'", "''", '"', "$$", "$a$", "E'\\'",
    "e'", "(", ")", "--", "-- c\n", "/*", "*/", "\\", "\\\\", "\\;", "\\c x\n", "\\if true\n", "\\endif\n", "\\echo 'a\\\\b' `c` \\\\ ", "\\copy t from stdin\n",
    "\\.\n", "\\.\r\n", "COPY t FROM STDIN;\n", "copy t from stdin with csv;", "1\t2\n", "CREATE FUNCTION f() BEGIN ATOMIC ", "BEGIN", "END;", "CASE ",
    " ", "\n", "\r\n", "\t", "a$b$", ":x", ":'x'", "::text", "é", "\ufeff", "U&'\\0041'", "SELECT E'a'\n'b\\'c';", "\\g\n", "\\r", "UPDATE t SET a = -1 - 1;",
    "\\! x\\\\y\n", "'\\'", "DELETE FROM t WHERE a = '--';", "-", "/", "*", "0",
]  # fmt: skip
scripts = st.lists(st.sampled_from(FRAGMENTS), max_size=40).map(lambda parts: "".join(parts).encode())


class Slowly(io.BytesIO):
    """Bytes that come a few at a time."""

    def __init__(self, content: bytes, piece: int) -> None:
        super().__init__(content)
        self._piece = piece

    def read(self, _size: int | None = -1, /) -> bytes:
        return super().read(self._piece)


def pieces(content: bytes, piece: int = 1 << 30) -> list[Piece]:
    made = Lexer(Slowly(content, piece))
    return list(iter(made.next, None))


def joined(found: list[Piece]) -> list[tuple[str, bytes]]:
    """Merge what may come in any number of pieces."""
    merged: list[tuple[str, bytes]] = []
    for each in found:
        if each.kind in (PLAIN, DATA) and merged and merged[-1][0] == each.kind:
            merged[-1] = (each.kind, merged[-1][1] + each.text)
        else:
            merged.append((each.kind, each.before + each.text))
    return merged


@settings(max_examples=400, deadline=None)
@given(scripts)
def test_nothing_is_lost_and_lines_are_counted(content: bytes) -> None:
    found = pieces(content)
    content = content.removeprefix(BOM_UTF8)
    given_back = b"".join(each.before + each.text for each in found)
    if given_back != content:  # what stands behind a COPY on its line is run behind its data, as psql does
        assert sorted(given_back.replace(b"\n", b"")) == sorted(content.replace(b"\n", b""))
        return
    line = 1
    for each in found:
        assert each.line == line
        line += (each.before + each.text).count(b"\n")


@settings(max_examples=300, deadline=None)
@given(scripts, st.integers(1, 9))
@example(BOM_UTF8 * 2 + b"SELECT 1;", 1)
@example(BOM_UTF8 * 2, 2)
def test_it_does_not_matter_in_what_pieces_a_script_comes(content: bytes, piece: int) -> None:
    def same(found: list[Piece]) -> list[tuple[str, bytes]]:
        # A plain statement may be looked at the slow way, where it comes in two pieces.
        kinds = [(("sql" if kind == PLAIN else kind), text) for kind, text in joined(found)]
        merged: list[tuple[str, bytes]] = []
        for kind, text in kinds:
            if merged and merged[-1][0] == kind == "sql":
                merged[-1] = (kind, merged[-1][1] + text)
            else:
                merged.append((kind, text))
        return merged

    content = content.removeprefix(BOM_UTF8)
    assert same(pieces(content, piece)) == same(pieces(content))


def row(number: int) -> bytes:
    return b"INSERT INTO things (id, name, price, at) VALUES (%d, 'the %dth', -%d.5, '2026-01-01'::date);\n" % (
        (number,) * 3
    )


SPEED = {
    "a COPY": (100, b"COPY t FROM stdin;\n" + b"some text\tand more of it\t2026-01-01\t\\N\n" * 1_000_000 + b"\\.\n"),
    "a COPY without newlines": (100, b"COPY t FROM stdin;\n" + b"x" * 40_000_000 + b"\n\\.\n"),
    "one-row INSERTs": (20, b"".join(map(row, range(100_000)))),
    "rows with escapes": (20, b"INSERT INTO t VALUES (1, E'it\\'s', 'C:\\temp', 'it''s');\n" * 100_000),
    "one INSERT": (
        20,
        b"INSERT INTO t VALUES " + b",\n".join(b"(%d, 'x(%d')" % (n, n) for n in range(500_000)) + b";\n",
    ),
    "a long string": (100, b"SELECT '" + b"x" * 40_000_000 + b"';\n"),
    "a long body": (100, b"DO $body$" + b"x$$;" * 10_000_000 + b"$body$;\n"),
    "a long comment": (20, b"/* " + b"* ; ' " * 2_000_000 + b"*/ SELECT 1;"),
    "dashes": (20, b"-" * 10_000_000 + b"\n" + b"SELECT 1;"),
    "no end": (20, b"SELECT (" * 1_000_000),
    "quotes without end": (5, b"INSERT INTO t VALUES ('" + b"a''" * 3_000_000),
    "dollars": (1, b"$a" * 500_000 + b"SELECT 1;"),
    "empty comments": (1, b"--\n" * 500_000 + b"SELECT 1;"),
    "white space": (20, b" \n" * 5_000_000 + b"SELECT 1;"),
}


REFERENCE = 0.25
"""Seconds that `reference` takes on the machine by which those rates were set."""


def reference() -> float:
    """Return the seconds that half a million matches take now, one at a time, as the lexer makes them."""
    began, pattern, text = time.process_time(), re.compile(rb"[a-z]+|\("), b"select (" * 100
    for _ in range(2500):
        at = 0
        for _ in range(200):
            found = pattern.match(text, at) or pattern.search(text, at)
            assert found
            at = found.end()
    return time.process_time() - began


@pytest.mark.slow
@pytest.mark.parametrize("case", SPEED)
def test_it_is_fast_and_small(case: str) -> None:
    megabytes, content = SPEED[case]
    patience = len(content) / 1e6 / megabytes * 6 + 0.5  # this machine may have more to do
    for _ in range(3):  # where the processor is shared, its speed changes from one second to the next
        before, began = reference(), time.process_time()
        made = Lexer(io.BytesIO(content))
        longest = 0
        while piece := made.next():
            longest = max(longest, len(piece.text) + len(piece.before))
        taken = time.process_time() - began
        allowed = patience * max(1.0, before / REFERENCE, reference() / REFERENCE)
        if taken < allowed:
            break
    assert taken < allowed
    assert longest <= 2 * (lexer.LIMIT + lexer.CHUNK)


@pytest.mark.slow
def test_memory_is_bounded_whatever_the_script() -> None:
    for content in (SPEED["a long string"][1], SPEED["one INSERT"][1], SPEED["no end"][1]):
        made = Lexer(io.BytesIO(content))
        tracemalloc.start()
        while made.next():
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 32 << 20


def test_a_long_statement_comes_in_parts() -> None:
    found = pieces(b"SELECT '" + b"x" * (3 * lexer.LIMIT) + b"' \\gset\nSELECT 1;")
    assert [each.kind for each in found if each.kind != PART] == ["command", "sql"]
    assert found[0].statement.startswith(b"SELECT 'xxx")
