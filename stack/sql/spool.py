"""A script for a psql that does not see the user's files: what it includes and copies is put into it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO

from stack.sql.script import Script


def spooled(file: Path) -> tuple[IO[bytes], Script]:
    r"""Return a script as psql in a container can run it, with what its `\i` and `\copy` name, and who knows its lines.

    Raises OSError when the file cannot be read, and StackError for what cannot be put into it.
    """
    with file.open("rb") as source:
        made = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        script = Script(source, into="", name="", file=str(file))
        while chunk := script.read(1 << 18):
            made.write(chunk)
    made.seek(0)
    return made, script
