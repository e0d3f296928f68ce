"""Files of SQL and dumps: opened whatever they are and whatever compresses them, and told apart by what is in them."""

from __future__ import annotations

import os
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, cast

from stack.ground.errors import Refused
from stack.ground.files import typed
from stack.ground.talk import say
from stack.sql import archives, encodings, stackfile
from stack.sql.unpack import damage_told, refuse_lz4, spooled, unpacked

HEAD = 1024
"""Bytes at either end of a file that tell what it is, from which server, and whether it is whole."""
CHUNK = 1 << 18
SEEDS = re.compile(r"\.sql(\.(gz|zst|xz|bz2|zip))?$", re.IGNORECASE)
_UNSPOKEN = re.compile(r"^(\.|README)|~$", re.IGNORECASE)
_ADDRESS = re.compile(r"^([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_FETCHED = ("http", "https", "ftp")
_DATABASES = ("postgres", "postgresql")
STDIN = "what came through stdin"
_OPEN = re.compile(r"/dev/(?:stdin|fd/(\d+))$|/proc/self/fd/(\d+)$")


class Source:
    """A file that is read from its beginning to its end."""

    def __init__(self, name: str, size: int, done: Callable[[], int], read: Callable[[int], bytes]) -> None:
        self.position, self._read = done, read
        self.name = name
        self.size = size
        """Its bytes as they are stored."""
        self.encoding = ""
        """What psql is to take its bytes for, by PostgreSQL's name; empty when the file says so, or it is the usual."""
        self.stack_file: stackfile.StackFile | None = None
        """The file with both stores of which it is the database's part."""
        self.listed_to = 0
        """Where the list of an archive of one file ends, once `statements` was asked and if it was understood."""
        self._begun, self._at = bytearray(), 0
        """What was looked at, and how much of that was read."""
        self.head = self._look(0, HEAD)

    @property
    def done(self) -> int:
        """How many of the stored bytes were read."""
        return self.position()

    @property
    def is_archive(self) -> bool:
        """True for what pg_restore takes, pg_dump's custom format and its tar; false for SQL."""
        return self.head.startswith(archives.MAGIC) or archives.is_tar_of_pg_dump(self.head)

    @property
    def server(self) -> str:
        """The version of the server that it was dumped from; empty when it does not tell."""
        if self.is_archive:
            return archives.header(self.head[self._list_at :]).server
        told = re.search(rb"^-- Dumped from database version (\d[\d.]*)", self.head, re.MULTILINE)
        return told[1].decode() if told else ""

    @property
    def options(self) -> tuple[str, ...]:
        """What psql is to be given before the file: the encoding of its bytes, if that must be told."""
        return ("-c", f"\\encoding {self.encoding}") if self.encoding else ()

    def statements(self, database: str) -> list[str]:
        """Return the statements that give `database` the settings, grants, comment and limits of the dumped one.

        Nothing for SQL, which has them in it. To be asked before anything is read; `database` is quoted where it must
        be. They may name roles, and run in any order with what is loaded.
        """
        if not self.is_archive:
            return []
        at = self._list_at

        def read(size: int) -> bytes:
            nonlocal at
            at += size
            return self._look(at - size, at)

        archive = archives.listed(read)
        # A pg_restore that a tar ends too early for waits for ever.
        self.listed_to = at if archive.complete and not self._list_at else 0
        return archive.statements(database)

    def read(self, size: int = CHUNK) -> bytes:
        """Return the next bytes, at most `size` of them; empty at the end. Raises StackError when it is damaged."""
        if self._begun:
            chunk = bytes(self._begun[self._at : self._at + size])
            self._at += size
            if self._at >= len(self._begun):
                self._begun, self._at = bytearray(), 0
            if chunk:
                return chunk
        with damage_told(self.name):
            return self._read(size)

    def skip(self, size: int) -> None:
        """Leave out the first bytes, of those that stand in `head`."""
        self._at, self.head = size, self.head[size:]

    @property
    def _list_at(self) -> int:
        """Where the list of an archive begins."""
        return archives.BLOCK if archives.is_tar(self.head) else 0

    def _look(self, start: int, end: int) -> bytes:
        """Return bytes that are still to be read, as far as there are any."""
        with damage_told(self.name):
            while len(self._begun) < end and (chunk := self._read(CHUNK)):
                self._begun += chunk
        return bytes(self._begun[start:end])


@contextmanager
def opened(file: str, encoding: str = "") -> Iterator[Source]:
    """Open a dump or a file of SQL, whatever compresses it; `-` is stdin.

    `encoding` is the one of SQL that does not say it. Raises Refused when it cannot be read, or is neither.
    """
    python, told = encodings.wanted(encoding) if encoding else ("", "")
    if file != "-" and os.path.isdir(file):  # noqa: PTH112 - which takes any name
        with _folder(Path(file)) as source:
            _refuse_encoding(source, encoding)
            yield source
        return
    name = STDIN if file == "-" else file
    with _raw(file) as raw, unpacked(raw, name, "FILE" if file == "-" else typed(file)) as stream:
        source = Source(name, os.fstat(raw.fileno()).st_size, raw.tell, stream.read)
        if stackfile.begins(source.head):
            _refuse_encoding(source, encoding)
            with raw if stream is raw else _whole(source, name) as whole:
                yield _of_both(stackfile.StackFile(whole, name))
            return
        yield _archive(source, encoding) if source.is_archive else _text(source, python, told)


def _of_both(file: stackfile.StackFile) -> Source:
    """Return the database's part of a file with both stores."""
    part = file.archive(stackfile.DATABASE)
    source = Source(file.name, file.database_size, part.tell, part.read)
    source.stack_file = file
    return source


def _archive(source: Source, encoding: str) -> Source:
    """Return an archive; of a tar, as one that tells when it is cut off."""
    _refuse_encoding(source, encoding)
    if not archives.is_tar(source.head):
        return source
    return Source(source.name, source.size, source.position, archives.WholeTar(source.read, source.name).read)


def _text(source: Source, python: str, told: str) -> Source:
    """Return a file that is no archive as text in an encoding that psql reads; see `encodings.wanted`."""
    name = source.name
    if archives.is_tar(source.head):
        first = source.head[:100].partition(b"\0")[0].decode(errors="replace")
        raise Refused(
            f"{name} is a tar, and not one of pg_dump: the first thing in it is {first}. Nothing was done. Unpack it"
            " (`tar -xf`), then load what is in it: a dump, a file of SQL, or a folder of `pg_dump -Fd`."
            f"{stackfile.packed_anew(source.head)}"
        )
    marked, length = encodings.mark(source.head)
    found = python or marked or encodings.unmarked(source.head)
    if found and found != "utf-8":
        text = encodings.Converted(source.read, found, name)
        source = Source(name, source.size, source.position, text.read)
        source.encoding = text.encoding
        return source
    source.encoding = told or (encodings.UTF8 if marked else "")
    source.skip(length)
    if b"\0" in source.head:
        raise Refused(
            f"{name} is neither a dump of pg_dump (`-Fc`, `-Ft`, `-Fd`) nor SQL, compressed or not. Nothing was done."
            " `invoke dump` makes such a dump; elsewhere, `pg_dump -Fc`."
        )
    return source


def _refuse_encoding(source: Source, encoding: str) -> None:
    if encoding:
        raise Refused(
            f"{source.name} is a dump of pg_dump, which says itself in which encoding it is. Nothing was done. Type the"
            " command without --encoding."
        )


@contextmanager
def _folder(folder: Path) -> Iterator[Source]:
    """Open what `pg_dump -Fd` made."""
    if not archives.is_folder(folder):
        raise Refused(
            f"{folder} cannot be read: it is a directory, and there is no {archives.TOC} of `pg_dump -Fd` in it. Name a"
            " dump or a file of SQL."
        )
    refuse_lz4(folder, typed(folder))
    seen = 0

    def see(size: int) -> None:
        nonlocal seen
        seen += size

    try:
        name, size = str(folder), archives.size_of(folder)
        with damage_told(name):
            parts = archives.as_tar(folder, lambda stream: unpacked(stream, stream.name, typed(stream.name)), see)
        yield Source(name, size, lambda: seen, lambda _: next(parts, b""))
    finally:
        parts.close()


def _raw(file: str) -> IO[bytes]:
    """Open what has a name as a file that can be sought in, reading a pipe to its end.

    What sends a pipe may itself hold locks on this database, so it is not kept waiting for us.
    """
    if file == "-":
        with open(0, "rb", closefd=False) if sys.stdin is None else nullcontext(sys.stdin.buffer) as stdin:
            return _whole(stdin, STDIN)
    try:
        there = Path(file).stat()
        if _is_pipe(there.st_mode, file):
            if not _OPEN.match(file):
                say(f"{file} is a pipe: it is read to its end first.")
            with _stream(file, there.st_mode) as stream:
                return _whole(stream, file)
        if stat.S_ISCHR(there.st_mode) and not os.path.samestat(there, Path(os.devnull).stat()):
            raise Refused(f"{file} cannot be read: it is a device. Name a dump or a file of SQL.")
        return Path(file).open("rb")
    except OSError as error:
        raise Refused(f"{file} cannot be read: {error.strerror}. {_instead(file)}") from None
    except ValueError as error:  # a zero byte in the name
        raise Refused(f"{file!r} cannot be read: {error}. {_instead(file)}") from None


def _is_pipe(mode: int, file: str) -> bool:
    terminal = stat.S_ISCHR(mode) and _is_terminal(file)
    return terminal or stat.S_ISFIFO(mode) or (stat.S_ISSOCK(mode) and bool(_OPEN.match(file)))


def _is_terminal(file: str) -> bool:
    descriptor = os.open(file, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        return os.isatty(descriptor)
    finally:
        os.close(descriptor)


def _stream(file: str, mode: int) -> IO[bytes]:
    """Open a pipe; a socket that is open already cannot be opened again."""
    found = _OPEN.match(file)
    if found and stat.S_ISSOCK(mode):
        return os.fdopen(os.dup(int(found[1] or found[2] or 0)), "rb")
    return Path(file).open("rb")


def _whole(stream: IO[bytes] | Source, name: str) -> IO[bytes]:
    try:
        return spooled(cast("IO[bytes]", stream))
    except OSError as error:
        raise Refused(
            f"{name} cannot be kept in {tempfile.gettempdir()} while it is read: {error.strerror}. Nothing was done."
            " Make room there, or set TMPDIR to a directory that has it."
        ) from None


def _instead(file: str) -> str:
    """Return what to type instead of what is no file."""
    scheme = found[1].lower() if (found := _ADDRESS.match(file)) else ""
    if scheme in _DATABASES:
        return f"That is a database's address: type `pg_dump -Fc {typed(file)} | invoke load -`."
    if scheme == "file":
        return "Name the file itself, without `file://`."
    if scheme and scheme not in _FETCHED:
        return "That is an address, not a file: fetch what is there, then load the file."
    if scheme:
        return f"That is an address, not a file: type `curl -fL {typed(file)} | invoke load -`."
    return "Name a dump or a file of SQL."


def seeds(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the files of SQL in a folder, compressed or not, in name order, and the names of what is passed over.

    What nobody takes for a seed, such as a README or what begins with a dot, is in neither.
    """
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    files = [folder / name for name in names if SEEDS.search(name) and not _UNSPOKEN.search(name)]
    return files, [name for name in names if not SEEDS.search(name) and not _UNSPOKEN.search(name)]
