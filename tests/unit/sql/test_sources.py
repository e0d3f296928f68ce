import bz2
import gzip
import io
import lzma
import os
import random
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stack.ground.errors import Refused, StackError
from stack.sql.sources import HEAD, Source, opened, seeds

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ARCHIVE = b"PGDMP" + bytes(20)
SQL = b"SELECT 1;\n" * 1000


def zipped(content: bytes, *names: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/", b"")
        for name in ("__MACOSX/folder/._a.sql", "folder/.DS_Store"):
            archive.writestr(name, b"?")
        for name in names:
            archive.writestr(name, content)
    return made.getvalue()


ZIP: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": lambda content: zstd.compress(
        content, options={zstd.CompressionParameter.checksum_flag: 1}
    ),  # as zstd does
    "xz": lzma.compress,
    "lzma": lambda content: lzma.compress(content, format=lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "zip": lambda content: zipped(content, "folder/a.sql"),
    "zip in gzip": lambda content: gzip.compress(zipped(content, "a.sql")),
    "xz in zip": lambda content: zipped(lzma.compress(content), "a.sql.xz"),
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
        assert source.size == file.stat().st_size
        assert source.done == source.size or ("zip" in kind and 0 < source.done < source.size)  # it ends with a list


@pytest.mark.parametrize("kind", ["gzip", "zstd", "xz", "bzip2", "zip", "xz in zip"])
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


@pytest.mark.parametrize("content", [b"\x7fELF\0\0", b"SQLite format 3\0", b"toc.dat\0\0" * 60, bytes(3000)])
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


# -- tar and zip ----------------------------------------------------------------------------------------------


def tarred(**files: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def test_a_tar_of_pg_dump_is_an_archive_and_tells_its_server(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    for pack in (bytes, gzip.compress, ZIP["zip"]):
        file.write_bytes(pack(tarred(toc_dat=header((1, 16), "17.1"), restore_sql=SQL)))
        with opened(str(file)) as source:
            assert source.is_archive
            assert source.server == "17.1"


def test_a_tar_of_pg_dump_that_is_cut_off_is_told_wherever_it_is_cut(tmp_path: Path) -> None:
    """pg_restore would wait for ever for the rest."""
    whole = tarred(toc_dat=header((1, 16), "17.1"), **{"1_dat": SQL}, restore_sql=SQL)
    rows = 512 * 3 + len(SQL)
    for size in (*range(1100, rows, 700), rows - 1):
        (tmp_path / "a.tar").write_bytes(whole[:size])
        with pytest.raises(StackError, match="cut off or damaged"), opened(str(tmp_path / "a.tar")) as source:
            everything(source)
    (tmp_path / "a.tar").write_bytes(whole)
    with opened(str(tmp_path / "a.tar")) as source:
        assert everything(source) == whole


@pytest.mark.parametrize("first", ["orders_sql", "toc_dat", "dump/toc_dat"])
def test_a_tar_of_something_else_is_told(tmp_path: Path, first: str) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tarred(**{first: SQL})))
    name = first.replace("_", ".")
    with (
        pytest.raises(Refused, match=rf"is a tar, and not one of pg_dump.* is {name}\."),
        opened(f"{tmp_path}/a.tar.gz"),
    ):
        pass


def test_a_zip_of_several_names_them_and_one_of_them_loads(tmp_path: Path) -> None:
    file = tmp_path / "two files.zip"
    file.write_bytes(zipped(SQL, "a.sql", "b.sql"))
    with (
        pytest.raises(
            Refused, match=r"zip with 2 files in it: a\.sql, b\.sql.*`unzip -p (.*) NAME \| invoke load -`"
        ) as told,
        opened(str(file)),
    ):
        pass
    command = str(told.value).partition("`")[2].partition(" | ")[0].replace("NAME", "b.sql")
    assert subprocess.run(["bash", "-c", command], check=True, capture_output=True).stdout == SQL
    file.write_bytes(zipped(SQL))
    with pytest.raises(Refused, match=r"zip with no files in it\. Nothing was done\.$"), opened(str(file)):
        pass


@pytest.mark.parametrize("magic", [b"\x04\x22\x4d\x18", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07"])
def test_what_is_not_unpacked_here_is_told_with_a_way(tmp_path: Path, magic: bytes) -> None:
    (tmp_path / "a.sql.x").write_bytes(magic + bytes(100))
    with pytest.raises(Refused, match=r"which is not unpacked here.*\| invoke load -"), opened(f"{tmp_path}/a.sql.x"):
        pass


def test_a_folder_by_lz4_is_told_with_a_way_for_all_of_its_files(tmp_path: Path) -> None:
    (folder := tmp_path / "a folder").mkdir()
    (folder / "toc.dat").write_bytes(b"PGDMP")
    for name in ("1.dat", "2.dat"):
        (folder / f"{name}.lz4").write_bytes(b"\x04\x22\x4d\x18")
        with pytest.raises(Refused, match=r"lz4.* Type `lz4 -dm '.*/a folder'/\*\.lz4`"), opened(str(folder)):
            pass
        (folder / name).write_bytes(b"")
    with pytest.raises(Refused, match=r"cut off.*`pg_restore -f - '.*/a folder' \|"), opened(str(folder)) as source:
        source.read()


def test_a_bomb_of_layers_is_refused(tmp_path: Path) -> None:
    content = SQL
    for _ in range(6):
        content = gzip.compress(content)
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(Refused, match="times or more"), opened(str(tmp_path / "a")):
        pass


# -- encodings ------------------------------------------------------------------------------------------------

WORDS = "-- größe, 寸法, размер\nSELECT 'größe';\r\n"


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["without a mark", "marked"])
@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_utf_16_and_utf_32_become_utf_8(tmp_path: Path, pack: Callable[[bytes], bytes], codec: str, mark: str) -> None:
    text = WORDS * 30_000
    (tmp_path / "a.sql").write_bytes(pack((mark + text).encode(codec)))
    with opened(str(tmp_path / "a.sql")) as source:
        assert everything(source) == text.encode()
        assert source.options == ("-c", "\\encoding UTF8")


def test_utf_16_that_says_another_encoding_becomes_that_one(tmp_path: Path) -> None:
    text = "SET client_encoding = 'WIN1252';\nSELECT 'größe';\n"
    (tmp_path / "a.sql").write_bytes(text.encode("utf-16"))
    with opened(str(tmp_path / "a.sql")) as source:
        assert everything(source) == text.encode("cp1252")
    (tmp_path / "a.sql").write_bytes(text.replace("ö", "寸").encode("utf-16"))
    with pytest.raises(StackError, match="says that it is in WIN1252"), opened(str(tmp_path / "a.sql")) as source:
        everything(source)


def test_utf_16_that_is_cut_off_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_bytes(("SELECT 1;\n" * 20_000).encode("utf-16")[:-1])
    with pytest.raises(StackError, match=r"not utf-16-le throughout"), opened(str(tmp_path / "a.sql")) as source:
        everything(source)


def test_a_mark_of_utf_8_is_taken_off_and_told(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_bytes(b"\xef\xbb\xbf" + SQL)
    with opened(str(tmp_path / "a.sql")) as source:
        assert source.options == ("-c", "\\encoding UTF8")
        assert source.head == SQL[: HEAD - 3]
        assert everything(source) == SQL


@pytest.mark.parametrize(
    ("typed", "told"),
    [("LATIN1", "LATIN1"), ("iso-8859-1", "LATIN1"), ("latin-1", "LATIN1"), ("ISO_8859_15", "LATIN9"),
     ("windows-1252", "WIN1252"), ("cp1252", "WIN1252"), ("win1251", "WIN1251"), ("KOI8-R", "KOI8R"),
     ("utf-8", "UTF8"), ("UNICODE", "UTF8"), ("EUC_JP", "EUCJP"), ("ISO_8859_5", "ISO88595")],
)  # fmt: skip
def test_an_encoding_may_be_named_as_anybody_calls_it(tmp_path: Path, typed: str, told: str) -> None:
    (tmp_path / "a.sql").write_bytes(b"SELECT '\xe9'")
    with opened(str(tmp_path / "a.sql"), typed) as source:
        assert source.options == ("-c", f"\\encoding {told}")
        assert everything(source) == b"SELECT '\xe9'"


@pytest.mark.parametrize(
    ("typed", "codec"), [("SJIS", "cp932"), ("big5", "cp950"), ("GBK", "gbk"), ("UTF-16LE", "utf-16-le")]
)
def test_an_encoding_in_which_a_character_may_hold_a_backslash_becomes_utf_8(
    tmp_path: Path, typed: str, codec: str
) -> None:
    text = "SELECT '表';\n" if codec == "cp932" else "SELECT '功';\n"
    (tmp_path / "a.sql").write_bytes(text.encode(codec))
    with opened(str(tmp_path / "a.sql"), typed) as source:
        assert everything(source) == text.encode()


def test_an_encoding_that_nobody_knows_or_an_archive_has_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.dump").write_bytes(ARCHIVE)
    with pytest.raises(Refused, match="none that PostgreSQL knows"), opened(str(tmp_path / "a.dump"), "klingon"):
        pass
    with pytest.raises(Refused, match="without --encoding"), opened(str(tmp_path / "a.dump"), "LATIN1"):
        pass


# -- pipes, devices, addresses --------------------------------------------------------------------------------


def test_a_named_pipe_is_read_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    content = gzip.compress(random.Random(1).randbytes(200_000).hex().encode())  # noqa: S311 - no secret
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(content))
    writer.start()
    with opened(str(tmp_path / "pipe")) as source:
        assert len(everything(source)) == 400_000
        assert source.size == len(content)
    writer.join()
    assert "is a pipe: it is read to its end first." in capsys.readouterr().err


def test_an_open_pipe_or_socket_is_read_by_its_number(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair()
    os.write(writer, ZIP["zip"](SQL))
    os.close(writer)
    ours.sendall(ZIP["zip"](SQL))
    ours.close()
    for number in (reader, theirs.fileno()):
        with opened(f"/dev/fd/{number}") as source:
            assert everything(source) == SQL
    os.close(reader)
    theirs.close()


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/full", "/dev/urandom"])
def test_a_device_is_refused(name: str) -> None:
    with pytest.raises(Refused, match="it is a device"), opened(name):
        pass


def test_a_stdin_that_was_closed_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    kept = os.dup(0)
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    try:
        with opened("-") as source:
            assert source.head == b""
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def test_the_device_that_is_empty_is_empty() -> None:
    with opened("/dev/null") as source:
        assert source.head == b""


@pytest.mark.parametrize(
    ("address", "way"),
    [("https://example.com/a.sql.gz", "`curl -fL https://example.com/a.sql.gz | invoke load -`"),
     ("HTTP://example.com/a?b&c", "`curl -fL 'HTTP://example.com/a?b&c' | invoke load -`"),
     ("postgresql://me@db/shop", "`pg_dump -Fc postgresql://me@db/shop | invoke load -`"),
     ("file:///tmp/a.sql", "without `file://`"), ("s3://shop/a.sql", "fetch what is there")],
)  # fmt: skip
def test_an_address_is_told_with_a_way(address: str, way: str) -> None:
    with pytest.raises(Refused) as told, opened(address):
        pass
    assert way in str(told.value)


def test_a_name_that_no_file_can_have_is_told() -> None:
    for name in ("a\0b", "x" * 5000):
        with pytest.raises(Refused, match="cannot be read"), opened(name):
            pass


def test_no_room_for_a_pipe_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stack.sql.unpack.shutil.copyfileobj", full)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(SQL)))
    with pytest.raises(Refused, match=r"cannot be kept in .*No space left.*TMPDIR"), opened("-"):
        pass


# -- seed/ ----------------------------------------------------------------------------------------------------


def test_seeds_are_sql_whatever_compresses_it_in_name_order_and_the_rest_is_named(tmp_path: Path) -> None:
    assert seeds(tmp_path / "nowhere") == ([], [])
    files = ["010.sql.gz", "015.SQL", "020.sql", "030.sql.zst", "040.sql.xz", "050.Sql.bz2", "060.sql.zip"]
    others = ["070.dump", "080.sql.txt", "rows.csv", "run.sh"]
    for name in (
        *reversed(files),
        *others,
        ".gitkeep",
        ".DS_Store",
        "README.md",
        "readme.sql",
        "010.sql~",
        ".x.sql.swp",
    ):
        (tmp_path / name).touch()
    (tmp_path / "more").mkdir()
    found, passed = seeds(tmp_path)
    assert [path.name for path in found] == files
    assert passed == sorted([*others, "more"])
