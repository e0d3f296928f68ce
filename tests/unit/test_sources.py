import gzip
import io
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stack.process import Refused, StackError
from stack.sources import HEAD, Source, opened

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ARCHIVE = b"PGDMP" + bytes(20)
SQL = b"SELECT 1;\n" * 1000
ZIP: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": lambda content: zstd.compress(
        content, options={zstd.CompressionParameter.checksum_flag: 1}
    ),  # as zstd does
}


def everything(source: Source) -> bytes:
    return b"".join(iter(lambda: source.read(100), b""))


@pytest.mark.parametrize("content", [ARCHIVE, SQL], ids=["archive", "SQL"])
@pytest.mark.parametrize("kind", ZIP)
def test_a_file_is_told_by_its_content(tmp_path: Path, kind: str, content: bytes) -> None:
    file = tmp_path / "misleading.txt"
    file.write_bytes(ZIP[kind](content))
    with opened(str(file)) as source:
        assert source.is_archive == (content == ARCHIVE)
        assert source.head == content[:HEAD]
        assert everything(source) == content
        assert source.done == source.size == file.stat().st_size


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_compressed_file_that_is_cut_off_or_damaged_says_so(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "a.sql"
    whole = ZIP[kind](random.Random(1).randbytes(50_000).hex().encode())  # noqa: S311 - no secret
    for broken in (whole[:-20], whole[: len(whole) // 2] + bytes(10) + whole[len(whole) // 2 + 10 :]):
        file.write_bytes(broken)
        with pytest.raises(StackError, match="cut off or damaged"), opened(str(file)) as source:
            everything(source)


@pytest.mark.parametrize("name", ["missing.dump", "."])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused, match="cannot be read"), opened(str(tmp_path / name)):
        pass


@pytest.mark.parametrize("content", [b"\x7fELF\0\0", b"SQLite format 3\0", b"toc.dat\0\0" * 60])
def test_what_is_neither_dump_nor_sql_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.dump"
    file.write_bytes(content)
    with pytest.raises(Refused, match="neither"), opened(str(file)):
        pass


def test_stdin_is_a_file_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(SQL))))
    with opened("-") as source:
        assert source.name == "what came through stdin"
        assert everything(source) == SQL


def header(version: tuple[int, int], server: str) -> bytes:
    """The beginning of an archive, as pg_backup_archiver.c describes it."""

    def text(words: str) -> bytes:
        return bytes([0]) + len(words).to_bytes(4, "little") + words.encode()

    compression = b"\x02" if version >= (1, 15) else b"\0\6\0\0\0"
    return b"PGDMP" + bytes([*version, 0, 4, 8, 1]) + compression + bytes(35) + text("a database") + text(server)


@pytest.mark.parametrize("version", [(1, 14), (1, 16)])
def test_an_archive_tells_its_server(tmp_path: Path, version: tuple[int, int]) -> None:
    file = tmp_path / "a.dump"
    for content, told in ((header(version, "18.1 (Debian)"), "18.1 (Debian)"), (header(version, "18.1")[:60], "")):
        file.write_bytes(content)
        with opened(str(file)) as source:
            assert source.server == told


def test_sql_of_pg_dump_tells_its_server(tmp_path: Path) -> None:
    file = tmp_path / "a.sql"
    file.write_text("--\n-- PostgreSQL database dump\n--\n\n-- Dumped from database version 18.1 (Debian 18.1-1)\n")
    with opened(str(file)) as source:
        assert source.server == "18.1"
    file.write_text("SELECT 1;")
    with opened(str(file)) as source:
        assert source.server == ""
