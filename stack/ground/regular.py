"""Reads files in a directory that a server may write, and nothing that it may have put in the place of one.

Root would read whatever a link leads to, and wait for ever for somebody to write into a pipe.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path, PurePosixPath
from typing import IO

MOST = 8 << 20
"""Bytes that are read of a file at once: more than any text of a server's own, and the end of a log."""


def opened(directory: Path, name: str) -> IO[bytes]:
    """Open a regular file below a directory for reading; as root, with no link on the way. Raises OSError."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW * (os.geteuid() == 0)
    *folders, last = PurePosixPath(name).parts
    where = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            inner = os.open(folder, flags | os.O_DIRECTORY, dir_fd=where)
            os.close(where)
            where = inner
        number = os.open(last, flags, dir_fd=where)
    except OSError as error:
        linked = "it is a symbolic link, which root does not follow there" if error.errno == errno.ELOOP else ""
        raise OSError(error.errno, linked or error.strerror, str(directory / name)) from None
    finally:
        os.close(where)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "it is no regular file", str(directory / name))
    return os.fdopen(number, "rb")


def text(directory: Path, name: str) -> str:
    """Return such a file as text. Raises OSError."""
    with opened(directory, name) as file:
        return file.read(MOST).decode(errors="replace")


def end(directory: Path, name: str, begin: int = 0) -> str:
    """Return what stands in such a file behind a byte, as far as it fits. Raises OSError."""
    with opened(directory, name) as file:
        file.seek(max(begin, os.fstat(file.fileno()).st_size - MOST))
        return file.read(MOST).decode(errors="replace")
