"""Files of SQL and dumps: opened whatever compresses them, and told apart by what is in them."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import sys
import tempfile
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from stack.process import Refused, StackError

HEAD = 1024
"""Bytes at either end of a file that tell what it is, from which server, and whether it is whole."""
CHUNK = 1 << 18
_GZIP, _ZSTD, _ARCHIVE = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PGDMP"


class Source:
    """A file that is read from its beginning to its end."""

    def __init__(self, name: str, raw: IO[bytes], stream: IO[bytes]) -> None:
        self._raw, self._stream = raw, stream
        self.name = name
        self.size = os.fstat(raw.fileno()).st_size
        """Its bytes as they are stored."""
        self.head = b""
        # psql takes a byte order mark only where a file begins, and ours begins before it.
        self.head = self.read(HEAD).removeprefix(BOM_UTF8)
        self._unread = self.head

    @property
    def done(self) -> int:
        """How many of the stored bytes were read."""
        return self._raw.tell()

    @property
    def is_archive(self) -> bool:
        """True for pg_dump's custom format, false for SQL."""
        return self.head.startswith(_ARCHIVE)

    @property
    def server(self) -> str:
        """The version of the server that it was dumped from; empty when it does not tell."""
        if self.is_archive:
            return _archive_server(self.head)
        told = re.search(rb"^-- Dumped from database version (\d[\d.]*)", self.head, re.MULTILINE)
        return told[1].decode() if told else ""

    def read(self, size: int = CHUNK) -> bytes:
        """Return the next bytes, at most `size` of them; empty at the end. Raises StackError when it is damaged."""
        if self.head and self._unread:
            chunk, self._unread = self._unread, b""
            return chunk
        damages: tuple[type[Exception], ...] = (EOFError, OSError, zlib.error, *_zstd_errors())
        try:
            return self._stream.read(size)
        except damages as error:
            raise StackError(f"{self.name} is cut off or damaged: {error}. Nothing was changed.") from None


@contextmanager
def opened(file: str) -> Iterator[Source]:
    """Open a dump or a file of SQL, gzip or zstd compressed or not; `-` is stdin.

    Raises Refused when it cannot be read, or is neither.
    """
    try:
        # Stdin is read to its end first: what sends it may itself hold locks on this database.
        raw = _spooled(sys.stdin.buffer) if file == "-" else Path(file).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise Refused(f"{file} cannot be read: {error.strerror}. Name a dump or a file of SQL.") from None
    with raw, _uncompressed(raw) as stream:
        source = Source("what came through stdin" if file == "-" else file, raw, stream)
        if b"\0" in source.head and not source.is_archive:
            raise Refused(
                f"{source.name} is neither a dump in pg_dump's custom format nor SQL, gzip or zstd compressed or not."
                " Nothing was done. `invoke dump` makes such a dump; elsewhere, `pg_dump -Fc`."
            )
        yield source


def _uncompressed(raw: IO[bytes]) -> IO[bytes]:
    magic = raw.read(4)
    raw.seek(0)
    if magic.startswith(_GZIP):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
    if magic == _ZSTD:
        if sys.version_info >= (3, 14):
            from compression.zstd import ZstdFile
        else:
            from backports.zstd import ZstdFile
        return cast("IO[bytes]", ZstdFile(raw))
    return raw


def _zstd_errors() -> tuple[type[Exception], ...]:
    module = sys.modules.get("compression.zstd") or sys.modules.get("backports.zstd")
    error: type[Exception] | None = getattr(module, "ZstdError", None)
    return (error,) if error else ()


def _spooled(stream: IO[bytes]) -> IO[bytes]:
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    shutil.copyfileobj(stream, spool)
    spool.seek(0)
    return spool


def _archive_server(head: bytes) -> str:
    """Return the server's version from the header of the custom format, as pg_backup_archiver.c writes it."""
    version, size = (head[5], head[6]), head[8]
    position = 11

    def integer() -> int:
        nonlocal position
        sign, digits = head[position], head[position + 1 : position + 1 + size]
        position += 1 + size
        return -int.from_bytes(digits, "little") if sign else int.from_bytes(digits, "little")

    def text() -> str:
        nonlocal position
        length = max(integer(), 0)
        position += length
        return head[position - length : position].decode(errors="replace")

    try:
        if version >= (1, 15):
            position += 1  # the kind of compression; its level before
        else:
            integer()
        for _ in range(7):  # when it was made
            integer()
        text()  # the database's name
        return text()
    except IndexError:
        return ""
