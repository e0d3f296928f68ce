"""Files with both stores: what was written is read, and nothing else is."""

import io
import json
import random
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from stack.ground.errors import Refused, StackError
from stack.sql import sources, stackfile

DUMP = b"PGDMP" + random.Random(1).randbytes(70_000)  # noqa: S311
CONVEX = {"image": "backend:1", "built": "2026-01-01T00:00:00Z", "instance": "mine", "size": 9}


def directory(**content: bytes) -> io.BytesIO:
    """Return a directory as a tar."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, text in {".": None, "./storage": None, **content}.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(text or b""), tarfile.DIRTYPE if text is None else tarfile.REGTYPE
            member.mode, member.uid = 0o4755, 1001
            tar.addfile(member, io.BytesIO(text or b""))
    made.seek(0)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with both stores."""
    path = tmp_path / "all.stack"
    with path.open("w+b") as output:
        writer = stackfile.Writer(output)
        with writer.part(stackfile.DATABASE) as part:
            part.write(DUMP[:100])
            part.write(DUMP[100:])
        writer.convex(directory(**{"./db.sqlite3": b"rows" * 999}), "data/convex")
        writer.finish({"database": "app", "convex": CONVEX})
    return path


def content(path: Path) -> tuple[bytes, list[tuple[str, int, int, bytes]]]:
    with sources.opened(str(path)) as source:
        assert source.stack_file
        members = [
            (member.name, member.mode, member.uid, stream.read() if stream else b"")
            for member, stream in source.stack_file.members()
        ]
        return b"".join(iter(lambda: source.read(1 << 16), b"")), members


def test_what_was_written_is_read(file: Path) -> None:
    assert content(file) == (DUMP, [("storage", 0o755, 1001, b""), ("db.sqlite3", 0o755, 1001, b"rows" * 999)])
    with sources.opened(str(file)) as source:
        assert source.is_archive
        assert source.stack_file
        assert source.stack_file.convex == stackfile.Convex(**CONVEX)  # type: ignore[arg-type]
        assert source.size == len(DUMP)


def test_no_byte_that_counts_may_change_and_none_may_be_missing(file: Path) -> None:
    chance, whole = random.Random(2), file.read_bytes()  # noqa: S311
    right, refused = content(file), 0
    for turn in range(300):
        changed = bytearray(whole)
        place = chance.randrange(len(whole))
        if turn % 3:
            changed[place] ^= chance.randrange(1, 256)
        else:
            del changed[place:]
        file.write_bytes(changed)
        try:
            found = content(file)
        except (StackError, AssertionError):  # or it is taken for another kind of file
            refused += 1
        else:
            assert found == right
    assert refused > 250


def test_a_manifest_that_does_not_tell_of_a_part_is_not_believed(file: Path) -> None:
    with file.open("r+b") as output:
        facts = json.loads(output.read()[512 : 9 * 512])
        del facts["parts"][stackfile.DATABASE]
        output.seek(512)
        output.write(json.dumps(facts).encode().ljust(8 * 512 - 1) + b"\n")
    with pytest.raises(StackError, match=r"database\.dump has not the size that its manifest.json tells"):
        content(file)


def test_what_is_no_part_is_refused(file: Path) -> None:
    with tarfile.open(file, "a") as tar:
        tar.addfile(tarfile.TarInfo("more"))
    with pytest.raises(Refused, match="more in it, which is none of its parts"):
        content(file)


@pytest.mark.parametrize(
    "packs",
    [
        "-cf all.stack -C parts .",
        "-cf all.stack ./parts/database.dump",
        "--format=pax -cf all.stack -C parts manifest.json",
    ],
)
def test_parts_that_were_packed_anew_are_told_how_they_make_one_again(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packs: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("parts").mkdir()
    subprocess.run(["tar", "-xf", file, "-C", "parts"], check=True)
    subprocess.run(["tar", *packs.split()], check=True)
    with (
        pytest.raises(Refused, match=r"is a tar, and not one of pg_dump.* in this order") as told,
        sources.opened("all.stack"),
    ):
        pass
    cure = re.findall("`(tar -cf .*?)`", str(told.value))[-1]
    subprocess.run(cure.split(), check=True, cwd="parts")
    with sources.opened("parts/all.stack") as source:
        assert source.stack_file


def test_a_directory_that_is_cut_off_is_not_written(tmp_path: Path) -> None:
    packed = io.BytesIO(directory(**{"./db.sqlite3": b"rows" * 9999}).read()[:9999])
    with (tmp_path / "x.stack").open("w+b") as output, pytest.raises(StackError, match="cut off"):
        stackfile.Writer(output).convex(packed, "data/convex")
