"""What psql says, passed on as it comes: with the user's files in it, and kept as far as a cure may need it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO

from stack.ground.threads import begin

KEPT = 1 << 16
"""Characters of it that are kept, the last."""
_WHERE = re.compile(rb"psql:(.*?):(\d+): ")
Where = Callable[[int], str]
"""Tells the user's file and line for a line that psql counts."""


def passed_on(said: IO[bytes], files: Mapping[str, Where]) -> Callable[[], str]:
    """Pass on what comes, line by line; `files` are told for what psql calls them. What is returned waits for the end.

    It returns the last of what was said.
    """
    kept = [b""]

    def theirs(found: re.Match[bytes]) -> bytes:
        where = files.get(found[1].decode(errors="surrogateescape"))
        return b"psql:%s: " % where(int(found[2])).encode(errors="surrogateescape") if where else found[0]

    def work() -> None:
        for raw in said:
            found = _WHERE.match(raw)
            line = theirs(found) + raw[found.end() :] if found else raw
            kept[0] = (kept[0] + line)[-KEPT:]
            with suppress(OSError, ValueError):  # nobody is there to hear it
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()

    thread = begin(work)

    def rest() -> str:
        thread.join()
        return kept[0].decode(errors="replace")

    return rest
