"""What a dump is written as: by the ending of its name."""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import sys
from collections.abc import Callable
from typing import NamedTuple

from stack.ground.errors import Refused
from stack.ground.files import typed
from stack.ground.talk import say
from stack.sql import archives

_NOT_WRITTEN = re.compile(r"\.(?:sql\.(?:xz|bz2|zip|lz4|lzma|7z|br|z)|t(?:ar\.)?(?:gz|zst|xz|bz2)|zip|7z)$")
BARE = ("pg_dump", "--format=custom", "--schema-only", "--exclude-schema=*")
"""What writes the list of a database without anything in it."""
_OPENING = """\
--
-- PostgreSQL database dump
--
-- Dumped from database version {}

-- The settings, grants and comment of the database itself, for the one into which psql loads this.
"""


def _zstd(content: bytes) -> bytes:
    if sys.version_info >= (3, 14):
        from compression.zstd import compress
    else:
        from backports.zstd import compress
    return compress(content)


class Format(NamedTuple):
    """How a file is written."""

    options: tuple[str, ...]
    """pg_dump's."""
    pack: Callable[[bytes], bytes] | None = None
    """What packs a part of it, for SQL, to which parts can be added; None for an archive."""


def format_of(file: str) -> Format:
    """Return how a file of that name is written. Raises Refused for an ending that would not be true."""
    name = file.lower()
    if found := _NOT_WRITTEN.search(name):
        base = re.sub(r"(?:\.sql|\.tar)?\.[^.]+$", "", file)
        raise Refused(
            f"{found[0]} is not written here, and a file of that name would not be what it says. Nothing was done. Type"
            f" `invoke dump {typed(base + '.sql.zst')}` for SQL, `invoke dump {typed(base + '.dump')}` for an archive,"
            " which is compressed too."
        )
    return next((_BY_ENDING[each] for each in _BY_ENDING if name.endswith(each)), ARCHIVE)


def is_stack_file(file: str, *, everything: bool) -> bool:
    """Return whether both stores are written to a file of that name. Raises Refused for an ending of something else."""
    name = file.lower()
    if everything and (_NOT_WRITTEN.search(name) or name.endswith((*_BY_ENDING, ".dump"))):
        raise Refused(
            f"With --all a file with both stores is written, and {file} is the name of another kind. Nothing was done."
            f" Type `invoke dump {typed(file.rpartition('.')[0] + '.stack')}`."
        )
    return everything or name.endswith(".stack")


def redirected() -> str:
    """Return `-` when stdout was sent into a file or a pipe, and say so; nothing for a terminal or /dev/null."""
    try:
        mode = os.fstat(1).st_mode
    except OSError:
        return ""
    kinds = {stat.S_ISREG: "a file", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a pipe"}
    found = next((kinds[each] for each in kinds if each(mode)), "")
    if found:
        say(f"stdout is {found}, so the dump goes there; `invoke dump FILE` writes a file that is whole or not there.")
    return "-" if found else ""


def preamble(listed: bytes) -> bytes:
    """Return SQL that gives the database into which psql loads it the settings, grants and comment of the dumped one.

    pg_dump writes them with --create only, and then for a database of that name, to which the file goes: not to the
    one that its user has chosen. `listed` is what `BARE` wrote. The SQL begins as pg_dump's does, whose end follows.
    """
    archive = archives.listed(io.BytesIO(listed).read)
    if not archive.complete:
        say("The settings and grants of the database itself are not in it: this pg_dump writes a list unknown here.")
    lines = [each.encode(errors="surrogateescape") for each in archive.statements(':"DBNAME"')]
    opening = _OPENING.format(archive.server).encode()
    return b"\n".join((opening, *lines, b"\n")) if lines else b""


ARCHIVE = Format(("--format=custom", "--compress=zstd"))
_BY_ENDING = {
    ".sql": Format(("--format=plain",), bytes),
    ".sql.gz": Format(("--format=plain", "--compress=gzip"), gzip.compress),
    ".sql.zst": Format(("--format=plain", "--compress=zstd"), _zstd),
    ".tar": Format(("--format=tar",)),
}
