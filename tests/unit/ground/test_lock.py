"""One command at a time: the lock, and whose it is."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.ground import lock, settings
from stack.ground.errors import StackError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path


def test_a_data_directory_that_cannot_be_made_is_told(root: Path) -> None:
    (root / "data").rmdir()
    (root / "data").touch()
    with pytest.raises(StackError, match="cannot be made"), lock.exclusive(root):
        pass


def test_one_at_a_time_and_a_dead_holder_holds_nothing(root: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from stack.ground import lock
with lock.exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
    argv = [sys.executable, "-c", program, str(root)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(StackError, match=r"for 0\.2 s"), lock.exclusive(root, timeout=0.2):
            pass
        other.kill()
    with lock.exclusive(root, timeout=5):
        assert (root / "data" / ".lock").exists()


# -- whose the lock is ----------------------------------------------------------------------------------------

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
HOLD = "import sys, pathlib; from stack.ground import lock\nwith lock.exclusive(pathlib.Path(sys.argv[1])): pass"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def shared() -> Iterator[Path]:
    """A checkout of the user 1234, which others may enter."""
    folder = Path(tempfile.mkdtemp())
    (folder / "it's data").mkdir()
    root = folder / "it's data"
    (root / "data").mkdir()
    for path in (folder, root, root / "data"):
        path.chmod(0o755)
        os.chown(path, 1234, 1234)
    yield root
    shutil.rmtree(folder)


def hold(root: Path, user: int) -> subprocess.CompletedProcess[str]:
    """Hold the lock as a user, for a moment."""
    through = ("setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups") if user else ()
    return subprocess.run(
        [*through, sys.executable, "-c", HOLD, root], check=False, cwd=settings.ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


def type_cure(said: str) -> None:
    """Type what a message says, as root, who needs no sudo."""
    cure = re.search(r"`(?:sudo )?(ch(?:own|mod) [^`]+)`", said)
    assert cure, said
    subprocess.run(["bash", "-c", cure[1]], check=True)


@pytest.mark.parametrize("umask", [0, 0o022, 0o277])
def test_the_lock_is_its_owners_alone(root: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with lock.exclusive(root):
            assert mode(root / "data/.lock") == 0o600
    finally:
        os.umask(before)


def test_a_lock_that_anybody_could_hold_is_tightened(root: Path) -> None:
    (root / "data/.lock").touch()
    (root / "data/.lock").chmod(0o666)
    with lock.exclusive(root):
        assert mode(root / "data/.lock") == 0o600


@as_root
def test_nobody_else_can_hold_the_lock(shared: Path) -> None:
    assert hold(shared, 1234).returncode == 0
    program = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX)"
    through = ("setpriv", "--reuid", "4321", "--regid", "4321", "--clear-groups")
    done = subprocess.run(
        [*through, sys.executable, "-c", program, shared / "data/.lock"], check=False, capture_output=True, text=True
    )
    assert "Permission denied" in done.stderr


@as_root
def test_root_locks_nobody_out_and_always_gets_in(shared: Path) -> None:
    assert hold(shared, 0).returncode == 0
    assert (shared / "data/.lock").stat().st_uid == 1234
    assert hold(shared, 1234).returncode == 0
    assert hold(shared, 0).returncode == 0
    assert (shared / "data/.lock").stat().st_uid == 1234
    os.chown(shared / "data/.lock", 0, 0)  # as an older version of this program left it
    assert hold(shared, 0).returncode == 0
    assert hold(shared, 1234).returncode == 0


@as_root
@pytest.mark.parametrize("whose", ["data/.lock", "data"])
def test_what_belongs_to_somebody_else_is_named_with_its_owner_and_the_cure(shared: Path, whose: str) -> None:
    if whose != "data":
        (shared / whose).touch(0o600)
    os.chown(shared / whose, 0, 0)
    done = hold(shared, 1234)
    assert f"{shared / whose} belongs to root, and you are 1234" in done.stderr
    type_cure(done.stderr)
    assert hold(shared, 1234).returncode == 0


@as_root
def test_ones_own_folder_that_may_not_be_written_is_named_with_the_cure(shared: Path) -> None:
    (shared / "data").chmod(0o555)
    done = hold(shared, 1234)
    assert f"{shared / 'data'} is yours, and may not be written" in done.stderr
    type_cure(done.stderr)
    assert hold(shared, 1234).returncode == 0


@pytest.mark.parametrize("kind", ["a link", "a directory"])
def test_what_is_no_lock_file_is_left_as_it_is(root: Path, kind: str) -> None:
    other = root / "somebody's"
    other.write_text("text")
    other.chmod(0o644)
    if kind == "a link":
        (root / "data/.lock").symlink_to(other)
    else:
        (root / "data/.lock").mkdir()
    with (
        pytest.raises(StackError, match=r"data/\.lock.* cannot be locked.*Look at what is there"),
        lock.exclusive(root),
    ):
        pass
    assert other.read_text() == "text"
    assert mode(other) == 0o644
