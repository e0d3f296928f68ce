"""Files that are whole or not there, on the disk under their name, with the right mode; on real file systems."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from stack.ground import files
from stack.ground.settings import ROOT

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else, and mount a file system")


def some(stream: IO[bytes]) -> None:
    stream.write(b"new")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def in_python(program: str, *args: str | Path, through: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a program in which `files` is known and `some` writes, in a process of its own."""
    program = f"import sys\nfrom pathlib import Path\nfrom stack.ground import files\n{program}"
    argv = [*through, sys.executable, "-c", program, *map(str, args)]
    return subprocess.run(argv, check=False, cwd=ROOT, capture_output=True, text=True, timeout=30)


@pytest.fixture(params=["without a name", "in a folder beside"], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the system has files without a name; where it has not, os.open says so."""
    if request.param == "in a folder beside":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that others than root may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o377])
def test_a_new_file_is_its_owners_alone(tmp_path: Path, umask: int) -> None:
    seen: list[int] = []

    def look(stream: IO[bytes]) -> None:
        seen.append(os.fstat(stream.fileno()).st_mode & 0o077)
        stream.write(b"new")

    before = os.umask(umask)
    try:
        files.write(tmp_path / "x", look)
        files.write_text(tmp_path / "open", "new", mode=0o644)
    finally:
        os.umask(before)
    assert seen == [0]
    assert mode(tmp_path / "x") == 0o600
    assert mode(tmp_path / "open") == 0o644
    assert {path.name for path in tmp_path.iterdir()} == {"x", "open"}


@pytest.mark.parametrize("former", [0o600, 0o640, 0o664, 0o666, 0o4755])
def test_a_former_file_keeps_its_mode(tmp_path: Path, former: int) -> None:
    (tmp_path / "x").touch()
    (tmp_path / "x").chmod(former)
    files.write(tmp_path / "x", some)
    assert mode(tmp_path / "x") == former & 0o777
    assert (tmp_path / "x").read_text() == "new"


@as_root
def test_a_former_file_keeps_its_owner(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    os.chown(tmp_path / "x", 1234, 2345)
    files.write(tmp_path / "x", some)
    there = (tmp_path / "x").stat()
    assert (there.st_uid, there.st_gid) == (1234, 2345)


@as_root
def test_whoever_cannot_keep_the_group_opens_the_file_to_no_other(open_folder: Path) -> None:
    open_folder.chmod(0o777)
    (open_folder / "x").touch()
    (open_folder / "x").chmod(0o666)
    os.chown(open_folder / "x", 0, 2345)
    program = "files.write(sys.argv[1], lambda stream: stream.write(b'new'))"
    through = ("setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups")
    done = in_python(program, open_folder / "x", through=through)
    assert done.returncode == 0, done.stderr
    assert (open_folder / "x").stat().st_uid == 1234
    assert mode(open_folder / "x") == 0o606


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="there are no extended attributes here")
def test_a_former_file_keeps_its_attributes(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    try:
        os.setxattr(tmp_path / "x", "user.kept", b"1")
    except OSError as error:
        pytest.skip(f"no extended attributes in {tmp_path}: {error}")
    files.write(tmp_path / "x", some)
    assert os.getxattr(tmp_path / "x", "user.kept") == b"1"


def test_what_fails_leaves_the_former_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")

    def fail(stream: IO[bytes]) -> None:
        stream.write(b"half")
        raise OSError(errno.EIO, "the disk is gone")

    for name in ("x", "y"):
        with pytest.raises(OSError, match="the disk is gone"):
            files.write(tmp_path / name, fail)
    with pytest.raises(OSError, match="the disk is gone"):
        files.add(tmp_path, ["y"], fail)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="this system has no files without a name")
def test_a_kill_leaves_nothing(tmp_path: Path) -> None:
    program = """
import os, signal
def half(stream):
    stream.write(b"half" * 100_000)
    os.kill(os.getpid(), signal.SIGKILL)
files.write(sys.argv[1], half)
"""
    assert in_python(program, tmp_path / "x").returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


# -- links and names ------------------------------------------------------------------------------------------


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/old").write_text("old")
    (tmp_path / "one").symlink_to("there/old")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    inode = (tmp_path / "there/old").stat().st_ino
    files.write(tmp_path / "two", some)
    assert (tmp_path / "two").readlink() == tmp_path / "one"
    assert str((tmp_path / "one").readlink()) == "there/old"
    assert (tmp_path / "there/old").read_text() == "new"
    assert (tmp_path / "there/old").stat().st_ino != inode
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["old"]


def test_a_link_to_nothing_makes_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/new")
    files.write(tmp_path / "link", some)
    assert (tmp_path / "there/new").read_text() == "new"
    (tmp_path / "nowhere").symlink_to("missing/new")
    with pytest.raises(FileNotFoundError):
        files.write(tmp_path / "nowhere", some)


def test_a_link_to_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        files.write(tmp_path / "loop", some)
    assert (tmp_path / "loop").is_symlink()


@pytest.mark.parametrize("name", ["", "there", "there/", "missing/", "file/", "there/.", "missing/..", "link"])
def test_a_directory_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("there")
    with pytest.raises((IsADirectoryError, NotADirectoryError)):
        files.write(f"{tmp_path}/{name}", some)
    assert (tmp_path / "file").read_text() == "old"
    assert list((tmp_path / "there").iterdir()) == []


def test_another_name_of_the_former_file_keeps_what_it_had(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    (tmp_path / "kept").hardlink_to(tmp_path / "x")
    files.write(tmp_path / "x", some)
    assert (tmp_path / "kept").read_text() == "old"
    assert (tmp_path / "x").read_text() == "new"


@pytest.mark.parametrize("name", [b"\nx", b"-rf", b"~", b"*", b"\xff\xfe", b"it's", "größe".encode(), b"x" * 255])
def test_any_name_will_do_and_can_be_typed(tmp_path: Path, name: bytes) -> None:
    folder = os.fsencode(tmp_path)
    files.write(os.fsdecode(folder + b"/" + name), some)
    assert [os.fsencode(path.name) for path in tmp_path.iterdir()] == [name]
    typed = files.typed(os.fsdecode(name))
    seen = subprocess.run(["bash", "-c", f"cat {typed}"], check=True, cwd=tmp_path, capture_output=True).stdout
    assert seen == b"new"


def test_a_name_that_somebody_has_taken_meanwhile_is_passed_over(tmp_path: Path) -> None:
    def slowly(stream: IO[bytes]) -> None:
        files.add(tmp_path / "new", ["a", "b", "c"], some)
        stream.write(b"the second")

    (tmp_path / "new").mkdir()
    (tmp_path / "new/a").symlink_to("nowhere")
    assert files.add(tmp_path / "new", ["a", "b", "c"], slowly) == tmp_path / "new/c"
    assert (tmp_path / "new/b").read_text() == "new"
    assert (tmp_path / "new/c").read_text() == "the second"
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"a", "b", "c"}


def test_the_folder_of_added_files_is_made_for_its_owner(tmp_path: Path) -> None:
    files.add(tmp_path / "new", ["a"], some)
    assert mode(tmp_path / "new") == 0o700
    assert mode(tmp_path / "new/a") == 0o600
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        files.add(tmp_path / "file", ["a"], some)


# -- what cannot be replaced ----------------------------------------------------------------------------------


@as_root
@pytest.mark.parametrize("folder", [0o555, 0o1777], ids=["read-only", "sticky"])
def test_a_file_that_may_be_written_and_not_replaced_is_written_in_place(open_folder: Path, folder: int) -> None:
    file = open_folder / "x"
    file.write_text("the former content")
    file.chmod(0o666)
    open_folder.chmod(folder)
    inode = file.stat().st_ino
    program = "files.write(sys.argv[1], lambda stream: stream.write(b'new'))"
    through = ("setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups")
    done = in_python(program, file, through=through)
    assert done.returncode == 0, done.stderr
    assert file.read_text() == "new"
    assert (file.stat().st_ino, file.stat().st_uid) == (inode, 0)
    assert list(open_folder.iterdir()) == [file]


@as_root
def test_a_file_that_is_write_protected_is_left_alone(open_folder: Path) -> None:
    open_folder.chmod(0o777)
    (open_folder / "x").write_text("old")
    os.chown(open_folder / "x", 1234, 1234)
    (open_folder / "x").chmod(0o444)
    program = "files.write(sys.argv[1], lambda stream: stream.write(b'new'))"
    through = ("setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups")
    done = in_python(program, open_folder / "x", through=through)
    assert "it is write-protected" in done.stderr
    assert (open_folder / "x").read_text() == "old"


@as_root
def test_a_file_that_is_a_mount_point_is_written_in_place(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.write_text("old and longer")
    inside.touch()
    subprocess.run(["mount", "--bind", outside, inside], check=True)
    try:
        files.write(inside, some)
        assert outside.read_text() == "new"
    finally:
        subprocess.run(["umount", inside], check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"outside", "inside"}


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    (tmp_path / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", tmp_path / "small"], check=True)
    yield tmp_path / "small"
    subprocess.run(["umount", tmp_path / "small"], check=True)


@as_root
def test_a_full_disk_leaves_the_former_file(small: Path) -> None:
    (small / "x").write_text("old")
    with pytest.raises(OSError, match="No space left"):
        files.write(small / "x", lambda stream: stream.write(bytes(2_000_000)))
    assert (small / "x").read_text() == "old"
    assert list(small.iterdir()) == [small / "x"]


@as_root
def test_a_full_disk_leaves_the_former_file_that_cannot_be_replaced(small: Path, tmp_path: Path) -> None:
    (small / "x").write_text("old")
    (tmp_path / "inside").touch()
    subprocess.run(["mount", "--bind", small / "x", tmp_path / "inside"], check=True)
    try:
        with pytest.raises(OSError, match="No space left"):
            files.write(tmp_path / "inside", lambda stream: stream.write(bytes(2_000_000)))
        assert (small / "x").read_text() == "old"
    finally:
        subprocess.run(["umount", tmp_path / "inside"], check=True)


# -- on the disk ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("strace"), reason="there is no strace to see the system calls with")
@pytest.mark.parametrize("added", [False, True])
def test_the_file_is_on_the_disk_before_its_name_and_the_name_before_the_end(tmp_path: Path, added: bool) -> None:
    (tmp_path / "new").mkdir(exist_ok=not added) if not added else None
    call = "files.add(folder, ['x'], some)" if added else "files.write(folder / 'x', some)"
    program = f"folder = Path(sys.argv[1])\ndef some(stream): stream.write(b'new')\n{call}"
    log = tmp_path / "log"
    calls = ("strace", "-f", "-y", "-o", str(log), "-e", "trace=fsync,rename,renameat,renameat2,linkat,link,mkdir")
    done = in_python(program, tmp_path / "new", through=calls)
    if "ptrace" in done.stderr and done.returncode:
        pytest.skip(f"strace may not be used here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    seen = [line.split(" ", 1)[1].strip() for line in log.read_text().splitlines() if "= 0" in line]
    name = next(i for i, line in enumerate(seen) if line.startswith(("link", "rename")) and '/new/x"' in line)
    synced = [i for i, line in enumerate(seen) if line.startswith("fsync")]
    folders = [i for i in synced if f"<{tmp_path}/new>" in seen[i]]
    assert synced[added] < name < folders[-1]
    assert f"<{tmp_path}/new/" in seen[synced[added]]  # the file itself
    if added:
        made = next(i for i, line in enumerate(seen) if line.startswith("mkdir") and f'"{tmp_path}/new"' in line)
        assert made < synced[0]
        assert f"<{tmp_path}>" in seen[synced[0]]


def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))  # as CIFS and some FUSE file systems do
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    files.write(tmp_path / "x", some)
    assert (tmp_path / "x").read_text() == "new"


@as_root
def test_a_folder_that_may_not_be_listed_is_no_error(open_folder: Path) -> None:
    os.chown(open_folder, 1234, 1234)
    open_folder.chmod(0o300)
    program = "files.write(sys.argv[1], lambda stream: stream.write(b'new'))"
    done = in_python(
        program, open_folder / "x", through=("setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups")
    )
    assert done.returncode == 0, done.stderr
    assert (open_folder / "x").read_text() == "new"


# -- what is no file ------------------------------------------------------------------------------------------


def test_a_device_is_written_through(tmp_path: Path) -> None:
    before = Path("/dev/null").stat()
    files.write("/dev/null", some)
    (tmp_path / "link").symlink_to("/dev/null")
    files.write(tmp_path / "link", some)
    after = Path("/dev/null").stat()
    assert (after.st_mode, after.st_ino, after.st_rdev) == (before.st_mode, before.st_ino, before.st_rdev)
    with pytest.raises(OSError, match="No space left on device"):
        files.write("/dev/full", some)
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


def test_a_pipe_waits_for_its_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    program = "files.write(sys.argv[1], lambda stream: stream.write(b'new'))"
    argv = [sys.executable, "-c", f"import sys\nfrom stack.ground import files\n{program}", str(tmp_path / "pipe")]
    with subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr
        assert child.stderr.readline() == f"Waiting for somebody to read {tmp_path}/pipe.\n"
        time.sleep(0.2)
        assert child.poll() is None
        assert (tmp_path / "pipe").read_text() == "new"
        assert child.wait(10) == 0
    assert (tmp_path / "pipe").is_fifo()


def test_a_socket_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(OSError, match="it is a socket"):
            files.write("socket", some)
    assert (tmp_path / "socket").is_socket()


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_an_open_file_is_written_where_it_stands(tmp_path: Path, name: str) -> None:
    program = f"print('head', flush=True)\nfiles.write({name!r}, lambda stream: stream.write(b'new'))\nprint('tail')"
    argv = [sys.executable, "-c", f"import sys\nfrom stack.ground import files\n{program}"]
    with (tmp_path / "x").open("wb") as output:
        subprocess.run(argv, check=True, cwd=ROOT, stdout=output)
    assert (tmp_path / "x").read_text() == "head\nnewtail\n"


def test_an_open_file_that_is_not_open_is_an_error() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        files.write("/dev/fd/977", some)
