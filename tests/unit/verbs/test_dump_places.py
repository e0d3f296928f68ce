"""Where a dump goes, on a real PostgreSQL 17: files, links, pipes, devices, full disks, and a power cut."""

from __future__ import annotations

import os
import re
import select
import shutil
import stat
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import psycopg
import pytest

from stack.engines.embedded.engine import Embedded
from stack.ground.errors import Refused, StackError
from stack.verbs import dump, up
from stack.verbs.psql import interruptible
from tests.unit.conftest import embedded

pytestmark = [pytest.mark.xdist_group("dump places"), pytest.mark.slow]  # they share a server
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
MAGIC = b"PGDMP"


@pytest.fixture(scope="module")
def server(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with embedded(programs, tmp_path_factory.mktemp("places")) as made:
        up.bring_up(made, 30, pull=False, wait=True)
        with psycopg.connect(made.endpoint().url(masked=False), autocommit=True) as session:
            # Nothing that compresses, so that a pipe (64 kB) does not hold it.
            session.execute(
                "CREATE TABLE kept AS SELECT sha512(n::text::bytea) AS h FROM generate_series(1, 4000) AS n"
            )
        yield made


@pytest.fixture
def engine(server: Embedded, tmp_path: Path) -> Embedded:
    """The server, as the engine of a checkout in a folder of the test's own."""
    (tmp_path / "data").mkdir()

    elsewhere = Embedded(server.settings, tmp_path)
    elsewhere.inside = server.inside  # it keeps its backups in another folder than the server's
    return elsewhere


def whole(path: Path) -> bool:
    return path.read_bytes().startswith(MAGIC) and path.stat().st_size > 250_000


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- modes ----------------------------------------------------------------------------------------------------


def test_a_dated_dump_and_its_folder_are_their_owners_alone(
    engine: Embedded, capsys: pytest.CaptureFixture[str]
) -> None:
    before = os.umask(0)
    try:
        dump.dump(engine, "")
    finally:
        os.umask(before)
    (made,) = (engine.root / "backups").iterdir()
    assert (mode(made), mode(made.parent)) == (0o600, 0o700)
    assert whole(made)
    assert f"Wrote {made} (" in capsys.readouterr().err


def test_a_dump_over_a_file_keeps_its_mode(engine: Embedded, tmp_path: Path) -> None:
    for former in (0o600, 0o640):
        (tmp_path / "x").touch()
        (tmp_path / "x").chmod(former)
        dump.dump(engine, str(tmp_path / "x"))
        assert mode(tmp_path / "x") == former
        assert whole(tmp_path / "x")
    dump.dump(engine, str(tmp_path / "new"))
    assert mode(tmp_path / "new") == 0o600


def test_dumps_of_the_same_second_have_names_of_their_own(
    engine: Embedded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Still(datetime):
        @classmethod
        def now(cls, tz: object = None) -> Still:  # noqa: ARG003 - datetime's own
            return cls(2026, 1, 1)

    monkeypatch.setattr(dump, "datetime", Still)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda _: dump.dump(engine, ""), range(4)))
    made = sorted(path.name for path in (engine.root / "backups").iterdir())
    assert made == [f"2026-01-01_000000{n}.dump" for n in ("-2", "-3", "-4", "")]
    said = capsys.readouterr().err
    assert all(f"/{name} (" in said for name in made)


# -- what is no file ------------------------------------------------------------------------------------------


def test_a_device_stays_a_device(engine: Embedded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("/dev/null", str(tmp_path / "null")):
        dump.dump(engine, name)
        assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
        assert capsys.readouterr().err == f"Wrote the database to {name}.\n"
    with pytest.raises(StackError, match=r"(?s)no whole dump.*No space left on device") as told:
        dump.dump(engine, "/dev/full")
    assert told.value.code == 1
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@as_root
def test_a_block_device_is_written_through(engine: Embedded, tmp_path: Path) -> None:
    with loop(image(tmp_path / "disk", 4)) as device:
        dump.dump(engine, device)
        assert stat.S_ISBLK(Path(device).stat().st_mode)
    assert (tmp_path / "disk").read_bytes().startswith(MAGIC)


def test_a_pipe_is_written_through(engine: Embedded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor() as pool:
        read = pool.submit((tmp_path / "pipe").read_bytes)
        dump.dump(engine, str(tmp_path / "pipe"))
        (tmp_path / "read").write_bytes(read.result(10))
    assert whole(tmp_path / "read")
    assert (tmp_path / "pipe").is_fifo()
    assert f"Wrote the database to {tmp_path}/pipe.\n" in capsys.readouterr().err


def test_a_reader_that_goes_away_ends_the_dump_and_its_session(engine: Embedded, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    def read() -> None:
        with (tmp_path / "pipe").open("rb") as pipe:
            pipe.read(10)

    thread = threading.Thread(target=read)
    thread.start()
    with pytest.raises(StackError, match="Nobody reads on"):
        dump.dump(engine, str(tmp_path / "pipe"))
    thread.join()
    assert (tmp_path / "pipe").is_fifo()


def test_a_terminal_is_refused(engine: Embedded) -> None:
    ours, theirs = os.openpty()
    with pytest.raises(Refused, match=r"binary and that is a terminal.*invoke dump - > my.dump"):
        dump.dump(engine, os.ttyname(theirs))
    assert not select.select([ours], [], [], 0)[0]
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("name", ["there", "there/", "missing/", "link", "it's there"])
def test_a_directory_is_refused_with_a_name_in_it(engine: Embedded, tmp_path: Path, name: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "it's there").mkdir()
    (tmp_path / "link").symlink_to("there")
    with pytest.raises(Refused, match=r"is a directory.*Nothing was done") as told:
        dump.dump(engine, f"{tmp_path}/{name}")
    found = re.search("`invoke dump (.*)`", str(told.value))
    assert found
    typed = subprocess.run(["bash", "-c", f"printf %s {found[1]}"], check=True, capture_output=True, text=True).stdout
    assert typed == f"{tmp_path}/{name.rstrip('/')}/my.dump"
    if name != "missing/":
        dump.dump(engine, typed)
        assert whole(Path(typed))


@pytest.mark.parametrize("name", ["data/pg/x", "data/embedded/base/x", "data/.lock", "data/.new-x", "way/pg/x", "link"])
def test_a_place_among_the_data_is_refused(
    engine: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for folder in ("pg", "embedded/base"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    (tmp_path / "way").symlink_to("data")
    (tmp_path / "link").symlink_to("data/pg/x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match="is among the files that the stack keeps"):
        dump.dump(engine, name)
    assert not any(path.is_file() for path in (tmp_path / "data").rglob("*"))
    dump.dump(engine, "data/mine.dump")


# -- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"-x", b"a\nb", b"~", b"$HOME `x`", b"it's", b"\xff\xfe", b"\x1b[31m"])
def test_what_it_says_to_type_finds_the_file(
    engine: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes],
    name: bytes,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    dump.dump(engine, os.fsdecode(name))
    said = capsysbinary.readouterr().err
    assert b"\x1b" not in said
    found = re.search(rb"`invoke load (.+)` brings", said)
    assert found
    seen = subprocess.run([b"bash", b"-c", b"cat " + found[1]], check=True, capture_output=True).stdout
    assert seen.startswith(MAGIC)


def test_a_backups_that_is_a_file_or_leads_nowhere_is_told(engine: Embedded, tmp_path: Path) -> None:
    (tmp_path / "backups").touch()
    with pytest.raises(StackError, match=r"backups cannot be written: Not a directory.*invoke dump FILE"):
        dump.dump(engine, "")
    (tmp_path / "backups").unlink()
    (tmp_path / "backups").symlink_to("nowhere")
    with pytest.raises(StackError, match=r"backups cannot be written: No such file"):
        dump.dump(engine, "")
    (tmp_path / "nowhere").mkdir()
    dump.dump(engine, "")
    assert len(list((tmp_path / "nowhere").iterdir())) == 1


# -- disks ----------------------------------------------------------------------------------------------------


@as_root
def test_a_full_disk_leaves_the_former_dump(engine: Embedded, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "small", tmp_path / "small"], check=True)
    try:
        (tmp_path / "small/x").write_text("old")
        with pytest.raises(StackError, match=r"(?s)Nothing was written.*No space left on device"):
            dump.dump(engine, str(tmp_path / "small/x"))
        assert (tmp_path / "small/x").read_text() == "old"
        assert [path.name for path in (tmp_path / "small").iterdir()] == ["x"]
    finally:
        subprocess.run(["umount", tmp_path / "small"], check=True)


def image(file: Path, megabytes: int, *format_it: str) -> Path:
    with file.open("wb") as stream:
        stream.truncate(megabytes << 20)
    if format_it:
        subprocess.run([*format_it, file], check=True, capture_output=True)
    return file


@contextmanager
def loop(file: Path) -> Iterator[str]:
    """A block device that is a file; skips where there is none to be had."""
    made = subprocess.run(["losetup", "--find", "--show", file], check=False, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no loop device here: {made.stderr}")
    try:
        yield made.stdout.strip()
    finally:
        subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


@contextmanager
def mounted(file: Path, place: Path) -> Iterator[Path]:
    place.mkdir()
    with loop(file) as device:
        # Without its own commit every 5 seconds: what was not synced is not there.
        subprocess.run(["mount", "-o", "commit=300", device, place], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", place], check=True)


DATED, NAMED, OVER, THROUGH = "", "x", "over", "link"


@as_root
@pytest.mark.skipif(not shutil.which("mkfs.ext4"), reason="there is no mkfs.ext4")
@pytest.mark.parametrize("name", [DATED, NAMED, OVER, THROUGH])
def test_after_the_word_a_power_cut_takes_nothing(engine: Embedded, tmp_path: Path, name: str) -> None:
    """The image of the disk, as it is right after the message, is what a power cut leaves."""
    with mounted(image(tmp_path / "image", 32, "mkfs.ext4", "-q"), tmp_path / "disk") as disk:
        (disk / "over").write_text("old")
        (disk / "folder").mkdir()
        (disk / "link").symlink_to("folder/new")
        os.sync()
        there = Embedded(engine.settings, disk)
        there.inside.running = engine.inside.running  # type: ignore[method-assign]
        dump.dump(there, str(disk / name) if name else "")
        shutil.copy(tmp_path / "image", tmp_path / "cut")
    with mounted(tmp_path / "cut", tmp_path / "after") as after:
        found = {
            DATED: lambda: next((after / "backups").glob("*.dump")),
            THROUGH: lambda: after / "folder/new",
        }.get(name, lambda: after / name)()
        assert whole(found)
        assert not [path for path in after.rglob(".*") if path.is_file()]


@contextmanager
def interrupted(engine: Embedded) -> Iterator[str]:
    """Do something with a session of some name, until Ctrl-C."""
    with pytest.raises(StackError) as told, interruptible(engine) as name:  # noqa: PT012 - what is tested
        yield name
        raise StackError("Interrupted.")
    assert str(told.value) == "Interrupted."


def test_an_interruption_ends_ones_own_session_and_nobody_elses(engine: Embedded) -> None:
    """Another machine's program may have the same process id."""
    url = engine.endpoint().url(masked=False)
    with psycopg.connect(url, application_name=f"invoke-{os.getpid()}") as other:
        with interrupted(engine) as name:
            own = psycopg.connect(url, application_name=name)
        other.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            own.execute("SELECT 1")
        own.close()


def test_a_server_that_is_gone_hides_no_reason(engine: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise StackError("postgres is not running.")

    with interrupted(engine):
        monkeypatch.setattr(engine, "client", gone)
