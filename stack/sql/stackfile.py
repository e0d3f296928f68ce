"""A file with both stores: a tar of a manifest, archives of pg_dump, and Convex's directory as a packed tar."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from stack.ground.errors import Refused, StackError
from stack.sql import directory
from stack.sql.archives import BLOCK, MAGIC, is_tar
from stack.sql.unpack import damage_told

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

FORMAT = 1
"""The version that is written, and the newest that is read."""
MANIFEST, DATABASE, CONVEX = "manifest.json", "database.dump", "convex.tar.zst"
TABLES = "convex.dump"
"""Convex's tables, where it keeps them in PostgreSQL."""
_MARK = "stack_file"
_ROOM = 8 * BLOCK
"""Bytes that are kept for the manifest, which comes first and is known last."""
_CHUNK = 1 << 20
_END = bytes(2 * BLOCK)


def begins(head: bytes) -> bool:
    """Return whether a file that begins so is one."""
    return is_tar(head) and head.startswith(MANIFEST.encode() + b"\0") and f'"{_MARK}"'.encode() in head[BLOCK:]


def packed_anew(head: bytes) -> str:
    """Return what to say of a tar that is none, and begins as `tar` packs the parts of one anew."""
    begun = [head[at : at + 100].partition(b"\0")[0].decode(errors="replace") for at in (0, BLOCK)]  # a folder, then it
    if not any(each.rpartition("/")[2] in (MANIFEST, DATABASE, CONVEX) for each in begun):
        return ""
    return (
        f" The parts of a stack file make one again in this order: `tar -cf all.stack {MANIFEST} {DATABASE} {CONVEX}`."
    )


def zstd_file(stream: SupportsWrite[bytes] | IO[bytes], mode: str) -> IO[bytes]:
    """Return a stream that packs what is written to it, or unpacks what is read."""
    if sys.version_info >= (3, 14):
        from compression.zstd import ZstdFile
    else:
        from backports.zstd import ZstdFile
    return cast("IO[bytes]", ZstdFile(cast("Any", stream), cast("Any", mode)))


# -- written ----------------------------------------------------------------------------------------------


class Part:
    """What is written to a part, counted and summed."""

    def __init__(self, output: IO[bytes]) -> None:
        self._output, self._sum = output, hashlib.sha256()
        self.size = 0
        self.head = b""
        """Its first bytes."""

    def write(self, data: bytes) -> int:
        """Write bytes."""
        self.head = self.head or bytes(data[:_CHUNK])
        self.size += len(data)
        self._sum.update(data)
        return self._output.write(data)

    def facts(self) -> dict[str, Any]:
        """Return what the manifest tells of it."""
        return {"size": self.size, "sha256": self._sum.hexdigest()}


class Writer:
    """Writes such a file, into one that can be sought in."""

    def __init__(self, output: IO[bytes]) -> None:
        self._output, self._begin = output, output.tell()
        self._parts: dict[str, Part] = {}
        output.write(bytes(BLOCK + _ROOM))

    @contextmanager
    def part(self, name: str) -> Iterator[Part]:
        """Give what the next part is written to."""
        output = self._output
        begin = output.tell()
        output.write(bytes(BLOCK))
        part = self._parts[name] = Part(output)
        yield part
        output.write(bytes(-part.size % BLOCK))
        end = output.tell()
        output.seek(begin)
        output.write(_header(name, part.size))
        output.seek(end)

    def convex(self, packed: IO[bytes], where: str) -> None:
        """Write Convex's part from a tar of its directory, called `where`. Raises Refused for what has no place in it.

        Raises StackError when that tar is cut off.
        """
        with (
            self.part(CONVEX) as part,
            zstd_file(part, "w") as packing,
            tarfile.open(fileobj=packing, mode="w|", format=tarfile.GNU_FORMAT) as target,
        ):
            for member, content in directory.members(packed, where):
                target.addfile(member, content)

    def finish(self, facts: dict[str, Any]) -> None:
        """Write the manifest, which tells these facts too."""
        parts = {name: part.facts() for name, part in self._parts.items()}
        told = json.dumps({_MARK: FORMAT, **facts, "parts": parts}, indent=2).encode()
        assert len(told) < _ROOM
        self._output.write(_END)
        end = self._output.tell()
        self._output.seek(self._begin)
        self._output.write(_header(MANIFEST, _ROOM) + told.ljust(_ROOM - 1) + b"\n")
        self._output.seek(end)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, int(time.time())
    return info.tobuf(tarfile.GNU_FORMAT)


# -- read -------------------------------------------------------------------------------------------------


class Convex(NamedTuple):
    """What a file tells of the Convex in it."""

    image: str
    built: str
    """When that image was built."""
    instance: str
    """Its instance's name, which is a part of admin keys."""
    size: int
    """The bytes in its directory."""


class StackFile:
    """Such a file, of which every part is there and has its checksum.

    Raises StackError when it is damaged, and Refused when it is of another kind.
    """

    def __init__(self, raw: IO[bytes], name: str) -> None:
        self._raw, self.name = raw, name
        with damage_told(name):
            there = self._listed()
            told = self._manifest(there.pop(MANIFEST))
            parts: dict[str, Any] = told["parts"]
            if others := there.keys() - {DATABASE, CONVEX, TABLES}:
                raise Refused(f"{name} has {min(others)} in it, which is none of its parts. Nothing was done.")
            for part in {**there, **parts}:
                self._check(part, there.get(part), parts.get(part, {}))
        if DATABASE not in there:
            raise self._damaged(f"there is no {DATABASE} in it")
        self._parts = there
        self.convex: Convex | None = None
        """None: the database alone."""
        if CONVEX in there:
            self.convex = Convex(**{key: told["convex"][key] for key in Convex._fields})

    @property
    def database_size(self) -> int:
        """The bytes of the archive."""
        return self._parts[DATABASE][1]

    @property
    def has_tables(self) -> bool:
        """Whether Convex's tables are an archive of their own in it, and not in its directory."""
        return TABLES in self._parts

    def archive(self, name: str) -> IO[bytes]:
        """Return the archive of pg_dump that is called so in it."""
        found = self._part(name)
        if not found.read(len(MAGIC)) == MAGIC:
            raise self._damaged(f"its {name} is no archive of pg_dump")
        found.seek(0)
        return found

    def members(self) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
        """Give the files and directories of Convex's, one after the other, each under a name that stays inside.

        Raises Refused for a link, a device, or a name that leads elsewhere; StackError when they are damaged.
        """
        with zstd_file(self._part(CONVEX), "r") as packed:
            yield from directory.members(packed, f"The part {CONVEX} of {self.name}")

    def _part(self, name: str) -> IO[bytes]:
        return io.BufferedReader(_Slice(self._raw.fileno(), *self._parts[name]), _CHUNK)

    def _listed(self) -> dict[str, tuple[int, int]]:
        """Return where each part begins, and its size."""
        found: dict[str, tuple[int, int]] = {}
        at, end = 0, os.fstat(self._raw.fileno()).st_size
        while (block := os.pread(self._raw.fileno(), BLOCK, at)).strip(b"\0"):
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise self._damaged(str(error)) from None
            found[info.name] = at + BLOCK, info.size
            at += BLOCK + info.size + -info.size % BLOCK
            if at > end or info.size < 0:
                raise self._damaged(f"{info.name} is not whole")
        if len(block) < BLOCK:
            raise self._damaged("its end is missing")
        return found

    def _manifest(self, place: tuple[int, int]) -> dict[str, Any]:
        try:
            told = json.loads(os.pread(self._raw.fileno(), min(place[1], _CHUNK), place[0]))
            version, parts, convex = told[_MARK], told["parts"], told.get("convex")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise self._damaged(f"its {MANIFEST} cannot be read") from None
        if version != FORMAT:
            raise Refused(
                f"{self.name} is a stack file of the format {version!r}, and this version of the stack reads format"
                f" {FORMAT}. Nothing was done. Load it with the version that wrote it, or with a newer one."
            )
        whole = isinstance(parts, dict) and all(isinstance(each, dict) for each in parts.values())
        if whole and CONVEX in parts:
            kinds = zip(Convex._fields, (str, str, str, int), strict=True)
            whole = isinstance(convex, dict) and all(isinstance(convex.get(key), kind) for key, kind in kinds)
        if not whole:
            raise self._damaged(f"its {MANIFEST} does not tell what it must")
        return cast("dict[str, Any]", told)

    def _check(self, part: str, place: tuple[int, int] | None, facts: dict[str, Any]) -> None:
        if not place:
            raise self._damaged(f"{part}, of which its {MANIFEST} tells, is missing")
        if place[1] != facts.get("size"):
            raise self._damaged(f"{part} has not the size that its {MANIFEST} tells")
        summed, (at, left) = hashlib.sha256(), place
        while chunk := os.pread(self._raw.fileno(), min(left, _CHUNK), at):
            summed.update(chunk)
            at, left = at + len(chunk), left - len(chunk)
        if summed.hexdigest() != facts.get("sha256"):
            raise self._damaged(f"{part} has not the checksum that its {MANIFEST} tells")

    def _damaged(self, why: str) -> StackError:
        return StackError(f"{self.name} is cut off or damaged: {why}. Nothing was changed.")


class _Slice(io.RawIOBase):
    """Some bytes of a file, read from wherever others read it too."""

    def __init__(self, descriptor: int, begin: int, size: int) -> None:
        self._descriptor, self._begin, self._size, self._at = descriptor, begin, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        chunk = os.pread(self._descriptor, min(len(buffer), self._size - self._at), self._begin + self._at)
        buffer[: len(chunk)] = chunk
        self._at += len(chunk)
        return len(chunk)
