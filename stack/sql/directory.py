"""A directory as a tar: plain files and directories alone, each under a name that stays inside."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, cast

from stack.ground.errors import Refused, StackError
from stack.sql.unpack import damage_told


def members(packed: IO[bytes], where: str) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Give the files and directories in a tar, one after the other, each under a name that stays inside.

    Raises Refused for a link, a device, or a name that leads elsewhere; StackError when they are damaged.
    """
    with _damage_told(where), tarfile.open(fileobj=packed, mode="r|") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # it would keep each
            if proper := _proper(member, where):
                content = tar.extractfile(member) if member.isreg() else None
                yield proper, cast("IO[bytes]", _Content(content, where)) if content else None


class _Content:
    """A file in a tar, whose damage is told to whoever reads it."""

    def __init__(self, stream: IO[bytes], where: str) -> None:
        self._stream, self._where = stream, where

    def read(self, size: int = -1) -> bytes:
        with _damage_told(self._where):
            return self._stream.read(size)


@contextmanager
def _damage_told(where: str) -> Iterator[None]:
    try:
        with damage_told(where):
            yield
    except (tarfile.TarError, ValueError) as error:
        raise StackError(f"{where} is cut off or damaged: {error}. Nothing was changed.") from None


def _proper(member: tarfile.TarInfo, where: str) -> tarfile.TarInfo | None:
    """Return a plain file or a directory with nothing but what a copy of it needs; None for the directory itself.

    That is stricter than Python's own `data` filter, which early releases of 3.10 and 3.11 do not have.
    """
    path = PurePosixPath(member.name)
    why = ""
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
        why = "is a link" if member.islnk() or member.issym() else "is no plain file"
    elif path.is_absolute() or ".." in path.parts or "\0" in member.name:
        why = "has a name that leads elsewhere"
    if why:
        raise Refused(f"{where} has {member.name} in it, which {why}. Nothing was done.")
    if not path.parts:
        return None
    made = tarfile.TarInfo(str(path))
    made.type = tarfile.DIRTYPE if member.isdir() else tarfile.REGTYPE
    made.size = 0 if member.isdir() else member.size
    made.mode, made.mtime = member.mode & 0o777, min(max(int(member.mtime), 0), 1 << 33)
    made.uid, made.gid = member.uid & 0x7FFFFFFF, member.gid & 0x7FFFFFFF
    return made
