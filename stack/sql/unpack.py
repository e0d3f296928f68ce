"""What compresses a file: told by its first bytes and taken off, one in the other as well."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

from stack.ground.errors import Refused, StackError

DEEPEST = 4
"""How many of them may be around each other; nobody needs three."""
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_ELSEWHERE = {
    b"\x04\x22\x4d\x18": ("lz4", "lz4 -dc"),
    b"\x1f\x9d": ("compress", "gzip -dc"),
    b"LZIP": ("lzip", "lzip -dc"),
    b"7z\xbc\xaf": ("7-Zip", "7z x -so"),
    b"Rar!": ("RAR", "unrar p -inul"),
}


def _zstd(raw: IO[bytes]) -> object:
    if sys.version_info >= (3, 14):
        from compression.zstd import ZstdFile
    else:
        from backports.zstd import ZstdFile
    return ZstdFile(raw)


@contextmanager
def unpacked(raw: IO[bytes], name: str, typed: str) -> Iterator[IO[bytes]]:
    """Give a stream of what is in a file that can be sought in, whatever compresses it.

    `name` is what it is called, and `typed` how that is typed. Raises Refused for what cannot be unpacked here.
    """
    with ExitStack() as opened:
        stream = raw
        with damage_told(name):
            for _ in range(DEEPEST):
                if inner := _inside(opened, stream, name, typed, inside=stream is not raw):
                    stream = inner
                else:
                    break
            else:
                raise Refused(f"{name} is compressed {DEEPEST} times or more. Nothing was done. Unpack it first.")
        yield stream


def _inside(opened: ExitStack, stream: IO[bytes], name: str, typed: str, *, inside: bool) -> IO[bytes] | None:
    """Return what is in a compressed stream, which is itself inside another one; None when it is not compressed."""
    magic: bytes = cast("Any", stream).peek(6)[:6]  # each of them has it
    if found := next((_OPENERS[each] for each in _OPENERS if magic.startswith(each)), None):
        return opened.enter_context(cast("IO[bytes]", found(stream)))
    if magic.startswith(_ZIP):
        whole = opened.enter_context(spooled(stream)) if inside else stream  # its list is at its end
        return opened.enter_context(_only_one(whole, name, typed))
    if other := next((_ELSEWHERE[each] for each in _ELSEWHERE if magic.startswith(each)), None):
        raise Refused(
            f"{name} is compressed by {other[0]}, which is not unpacked here. Nothing was done. Type"
            f" `{other[1]} {typed} | invoke load -`."
        )
    return None


def refuse_lz4(folder: Path, typed: str) -> None:
    """Raise Refused for a folder of `pg_dump -Fd` with files by lz4 in it, each of which is only a part of the dump."""
    if any(not each.with_suffix("").exists() for each in folder.glob("*.lz4")):
        raise Refused(
            f"{folder} is compressed by lz4, which is not unpacked here. Nothing was done. Type"
            f" `lz4 -dm {typed}/*.lz4`, which unpacks its files beside themselves, then the command again."
        )


def _only_one(raw: IO[bytes], name: str, typed: str) -> IO[bytes]:
    """Open the one file that is in a zip."""
    archive = zipfile.ZipFile(raw)
    files = [each for each in archive.infolist() if not each.is_dir() and not _left_by_a_finder(each.filename)]
    if not files:
        raise Refused(f"{name} is a zip with no files in it. Nothing was done.")
    if len(files) > 1:
        if any(each.filename.endswith("toc.dat") for each in files):
            raise Refused(
                f"{name} is a zip of a folder of `pg_dump -Fd`. Nothing was done. Unpack it (`unzip {typed}`), and load"
                " the folder that comes out."
            )
        few = ", ".join(each.filename for each in files[:5]) + ", …" * (len(files) > 5)
        raise Refused(
            f"{name} is a zip with {len(files)} files in it: {few}. Nothing was done. Load"
            f" one of them: `unzip -p {typed} NAME | invoke load -`."
        )
    if files[0].flag_bits & 1:
        raise Refused(
            f"{name} is a zip with a password. Nothing was done. Type `unzip -p {typed} | invoke load -`, which asks."
        )
    return archive.open(files[0])


def _left_by_a_finder(name: str) -> bool:
    return name.startswith("__MACOSX/") or name.rpartition("/")[2] in (".DS_Store", "Thumbs.db")


def spooled(stream: IO[bytes]) -> IO[bytes]:
    """Return a file without a name that holds all that comes out of a stream, at its beginning."""
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        shutil.copyfileobj(stream, spool, 1 << 20)
        spool.seek(0)
    except BaseException:
        spool.close()
        raise
    return spool


@contextmanager
def damage_told(name: str) -> Iterator[None]:
    """Turn what is said of bytes that cannot be unpacked into a sentence. Raises StackError."""
    damages: tuple[type[Exception], ...] = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
    try:
        yield
    except (*damages, *_zstd_errors()) as error:
        raise StackError(f"{name} is cut off or damaged: {error}. Nothing was changed.") from None
    except NotImplementedError as error:
        raise Refused(f"{name} is a zip of a kind that is not unpacked here: {error}. Unpack it first.") from None


def _zstd_errors() -> tuple[type[Exception], ...]:
    module = sys.modules.get("compression.zstd") or sys.modules.get("backports.zstd")
    error: type[Exception] | None = getattr(module, "ZstdError", None)
    return (error,) if error else ()


_OPENERS: dict[bytes, Callable[[IO[bytes]], object]] = {
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw, mode="rb"),
    b"\x28\xb5\x2f\xfd": _zstd,
    b"\xfd7zX": lzma.LZMAFile,
    b"\x5d\x00\x00": lzma.LZMAFile,
    b"BZh": bz2.BZ2File,
}
