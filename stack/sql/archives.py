"""pg_dump's archives, as its pg_backup_archiver.c writes them: the header, the list of what is in them, a folder."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from stack.ground.errors import Refused, StackError
from stack.ground.files import typed

MAGIC = b"PGDMP"
TOC = "toc.dat"
"""The file of a tar or a folder that begins as an archive of one file does."""
BLOCK = 512
_FORMAT_AT, _COMPRESSION_AT = 10, 11
_PLAIN = 1
"""The format's number of one file; a tar and a folder have another, and share it."""
_OLDEST, _COMPRESSION_IS_A_BYTE, _HAS_ACCESS_METHOD, _HAS_KIND = (1, 12), (1, 15), (1, 14), (1, 16)
_MOST_SESSIONS = 0x3FFFF
"""PostgreSQL's MAX_BACKENDS."""
_LONGEST = 1 << 28
"""Bytes of a text; what has more is damaged, and is not read into memory."""
OF_THE_DATABASE = ("DATABASE PROPERTIES", "COMMENT", "SECURITY LABEL", "ACL")
# A quote in what pg_dump quotes is always doubled, also after an E.
_STATEMENT = re.compile(r"""\s*((?:[^'";]|'(?:[^']|'')*'|"(?:[^"]|"")*")+;)""")
_NAME = r"""("(?:[^"]|"")*"|\w+)"""
_OWN = re.compile(
    rf"((?:ALTER DATABASE|ALTER ROLE {_NAME} IN DATABASE|COMMENT ON DATABASE|SECURITY LABEL [^;']*ON DATABASE"
    rf"|(?:GRANT|REVOKE)[A-Z, ]+ ON DATABASE) ){_NAME}"
)


@dataclass(frozen=True)
class Entry:
    """One line of an archive's list."""

    kind: str
    tag: str
    statement: str
    """Empty unless it is the database's own."""
    file: str
    """Where a tar or a folder keeps its rows."""


@dataclass
class Archive:
    """What an archive says of itself before the rows come."""

    database: str = ""
    server: str = ""
    entries: list[Entry] = field(default_factory=list)
    complete: bool = False
    """The list was read to its end."""

    def statements(self, database: str) -> list[str]:
        """Return what gives a database the settings, grants, comment and limits of the one that was dumped.

        `database` is its name as SQL has it, quoted where it must be. pg_restore does this only with --create, and
        then for a database of the dumped one's name.
        """
        found = (each for entry in self.entries for each in _STATEMENT.findall(entry.statement))
        return [_named(each, database, self.database) for each in found if not _is_mark(each)]


def _is_mark(statement: str) -> bool:
    """Return whether a statement sets a limit that no server can reach: that is a mark of ours, or of a half DROP."""
    limit = re.search(r"\A[^']* CONNECTION LIMIT = (-?\d+);\Z", statement)
    return bool(limit) and not -1 <= int(limit[1] if limit else 0) <= _MOST_SESSIONS


def _named(statement: str, database: str, former: str) -> str:
    """Let a statement speak of another database than the dumped one."""
    found = _OWN.match(statement)
    if not found or found[3] not in (former, '"{}"'.format(former.replace('"', '""'))):
        return statement
    return f"{found[1]}{database}{statement[found.end() :]}"


def is_tar(head: bytes) -> bool:
    """Return whether a file that begins so is a tar."""
    return head[257:262] == b"ustar"


def is_tar_of_pg_dump(head: bytes) -> bool:
    """Return whether a file that begins so was made by `pg_dump -Ft`."""
    return is_tar(head) and head.startswith(TOC.encode() + b"\0") and head[BLOCK:].startswith(MAGIC)


class WholeTar:
    """A tar of pg_dump that tells when it is cut off: pg_restore 17 would wait for ever for the rest of a pipe."""

    def __init__(self, read: Callable[[int], bytes], name: str) -> None:
        self._read, self._name = read, name
        self._header = b""
        self._left = 0
        """Bytes of this member that are still to come."""
        self._whole = False

    def read(self, size: int) -> bytes:
        """Return the next bytes. Raises StackError where they end too early."""
        chunk = self._read(size)
        at = 0
        while at < len(chunk) and not self._whole:
            step = min(self._left, len(chunk) - at)
            self._left, at = self._left - step, at + step
            taken = chunk[at : at + BLOCK - len(self._header)] if not self._left else b""
            self._header, at = self._header + taken, at + len(taken)
            if len(self._header) == BLOCK:
                self._enter(self._header)
                self._header = b""
        if not chunk and not self._whole:
            raise StackError(f"{self._name} is cut off or damaged: its last file is not whole. Nothing was changed.")
        return chunk

    def _enter(self, block: bytes) -> None:
        """Begin with a member; behind the rows there is only a script that pg_restore does not read."""
        self._whole = not block.strip(b"\0") or block.startswith(b"restore.sql\0")
        try:
            size = 0 if self._whole else tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").size
        except tarfile.HeaderError as error:
            raise StackError(f"{self._name} is cut off or damaged: {error}. Nothing was changed.") from None
        self._left = size + -size % BLOCK


def header(head: bytes) -> Archive:
    """Return what the first bytes of an archive tell; as far as they go."""
    archive, position = Archive(), 0

    def read(size: int) -> bytes:
        nonlocal position
        position += size
        return head[position - size : position]

    with suppress(EOFError):
        _header(_Numbers(read), archive)
    return archive


def listed(read: Callable[[int], bytes]) -> Archive:
    """Read an archive's header and its list, and nothing after it; as far as this version of them is known."""
    archive = Archive()
    try:
        numbers = _Numbers(read)
        version, of_one_file = _header(numbers, archive)
        if version < _OLDEST:
            return archive
        for _ in range(numbers.integer()):
            archive.entries.append(_entry(numbers, version, of_one_file=of_one_file))
        archive.complete = True
    except (EOFError, ValueError):
        pass
    return archive


class _Numbers:
    """Reads the numbers and texts of an archive. Raises EOFError where it ends."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.integer_size = self.offset_size = 0

    def bytes(self, size: int) -> bytes:
        found = self._read(size)
        if len(found) < size:
            raise EOFError
        return found

    def integer(self) -> int:
        sign, *digits = self.bytes(1 + self.integer_size)
        value = int.from_bytes(digits, "little")
        return -value if sign else value

    def text(self) -> str | None:
        length = self.integer()
        if length > _LONGEST:
            raise EOFError
        return None if length < 0 else self.bytes(length).decode(errors="surrogateescape")


def _header(numbers: _Numbers, archive: Archive) -> tuple[tuple[int, int], bool]:
    """Read the header; return the archive's version, and whether it is one file."""
    magic = numbers.bytes(_COMPRESSION_AT)
    version = (magic[5], magic[6])
    numbers.integer_size, numbers.offset_size = magic[8], magic[9]
    if not magic.startswith(MAGIC) or numbers.integer_size > 8:
        raise EOFError
    if version >= _COMPRESSION_IS_A_BYTE:
        numbers.bytes(1)
    else:
        numbers.integer()
    for _ in range(7):  # when it was made
        numbers.integer()
    archive.database = numbers.text() or ""
    archive.server = numbers.text() or ""
    numbers.text()  # pg_dump's own version
    return version, magic[_FORMAT_AT] == _PLAIN


def _entry(numbers: _Numbers, version: tuple[int, int], *, of_one_file: bool) -> Entry:
    numbers.integer()  # its number
    numbers.integer()  # whether it has rows
    numbers.text(), numbers.text()  # the row of the catalog
    tag, kind = numbers.text() or "", numbers.text() or ""
    numbers.integer()  # the section
    statement = numbers.text() or ""
    for _ in range(4 + (version >= _HAS_ACCESS_METHOD)):  # DROP, COPY, the schema, the tablespace, the access method
        numbers.text()
    if version >= _HAS_KIND:
        numbers.integer()
    numbers.text(), numbers.text()  # the owner, and whether rows have numbers
    while numbers.text() is not None:  # what it depends on
        pass
    file = ""
    if of_one_file:
        numbers.bytes(1 + numbers.offset_size)
    else:
        file = numbers.text() or ""
    own = kind in OF_THE_DATABASE and (kind == "DATABASE PROPERTIES" or tag.startswith("DATABASE "))
    return Entry(kind, tag, statement if own else "", file)


def is_folder(folder: Path) -> bool:
    """Return whether a folder was made by `pg_dump -Fd`."""
    return (folder / TOC).is_file()


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(each.stat().st_size for each in folder.iterdir() if each.is_file())


def as_tar(
    folder: Path, unpack: Callable[[IO[bytes]], AbstractContextManager[IO[bytes]]], seen: Callable[[int], object]
) -> Generator[bytes]:
    """Give a folder of `pg_dump -Fd` as the tar that `pg_dump -Ft` would have made, which pg_restore takes from a pipe.

    The two have the same list (PostgreSQL calls the folder "compatible with tar"), but a tar is read in one go: the
    rows stand in the list's order, and are not compressed. `unpack` opens what is; `seen` gets the stored bytes that
    were read. Raises StackError when a file of it is missing.
    """
    with (folder / TOC).open("rb") as stream:
        archive = listed(stream.read)
    toc = bytearray((folder / TOC).read_bytes())
    if not archive.complete:
        raise Refused(
            f"{folder}/{TOC} is cut off, or of a version that is not known here. Nothing was done. Dump again, or let"
            f" its own pg_restore turn it into SQL: `pg_restore -f - {typed(folder)} | invoke load -`."
        )
    integer_size = 0 if (toc[5], toc[6]) >= _COMPRESSION_IS_A_BYTE else toc[8]
    toc[_COMPRESSION_AT : _COMPRESSION_AT + 1 + integer_size] = bytes(1 + integer_size)
    yield from _member(TOC, len(toc), iter([bytes(toc)]))
    for entry in archive.entries:
        for name in _files(folder, entry):
            with _stored(folder, name) as stored, unpack(stored) as plain:
                size = sum(map(len, _chunks(plain)))
            with _stored(folder, name) as stored, unpack(stored) as plain:
                yield from _member(name, size, _chunks(plain))
                seen(Path(stored.name).stat().st_size)
    yield bytes(2 * BLOCK)


def _files(folder: Path, entry: Entry) -> Iterator[str]:
    """Return the files of an entry; of large objects, each has one, and their list comes last."""
    if entry.kind in ("BLOBS", "BLOB DATA") and entry.file:
        with _stored(folder, entry.file) as stream:
            yield from (line.split()[1].decode() for line in stream if line.strip())
    if entry.file:
        yield entry.file


def _stored(folder: Path, name: str) -> IO[bytes]:
    """Open a file of a folder, compressed or not."""
    for end in ("", ".gz", ".zst", ".lz4"):
        path = folder / f"{name}{end}"
        if "/" not in name and path.is_file():
            return path.open("rb")
    raise StackError(f"{folder} is no whole dump: its file {name} is missing. Nothing was changed. Dump again.")


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: stream.read(1 << 18), b"")


def _member(name: str, size: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.size = size
    yield info.tobuf(tarfile.GNU_FORMAT)
    yield from chunks
    yield bytes(-size % BLOCK)
