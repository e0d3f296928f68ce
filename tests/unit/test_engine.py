"""Which engine a checkout gets, and the lock."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.engines import choose
from stack.engines.docker.engine import Docker
from stack.ground import disk, lock, settings
from stack.ground.errors import Refused, StackError
from stack.ground.settings import DEFAULTS


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "data").mkdir()
    return tmp_path


@pytest.fixture
def docker_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Docker, "why_not", lambda _self: "")


@pytest.fixture
def docker_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Docker, "why_not", lambda _self: "Docker does not answer.")


def data(root: Path, *names: str) -> None:
    for name in names:
        (root / "data" / name).mkdir()
        (root / "data" / name / "PG_VERSION").touch()


@pytest.mark.usefixtures("docker_answers")
def test_without_data_it_is_docker_where_docker_answers(root: Path) -> None:
    assert choose.choose(root).name == "docker"


@pytest.mark.usefixtures("docker_is_silent")
def test_without_data_and_without_docker_it_is_embedded_and_says_so_in_one_line(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert choose.choose(root).name == "embedded"
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "no Convex" in said


@pytest.mark.usefixtures("docker_answers")
def test_embedded_data_keeps_the_embedded_engine_though_docker_answers(root: Path) -> None:
    data(root, "embedded")
    assert choose.choose(root).name == "embedded"


@pytest.mark.usefixtures("docker_is_silent")
@pytest.mark.parametrize("name", ["pg", "convex"])
def test_data_of_containers_never_becomes_a_second_database(root: Path, name: str) -> None:
    data(root, name)
    assert choose.choose(root).name == "docker"  # whose first command says that Docker does not answer


def test_data_that_may_not_be_read_is_data_of_a_container(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "data" / "pg").mkdir()

    def refuse(_self: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert disk.has_data(root / "data" / "pg")


@pytest.mark.usefixtures("docker_answers")
def test_with_data_of_both_it_is_docker_where_docker_answers(root: Path) -> None:
    data(root, "pg", "embedded")
    assert choose.choose(root).name == "docker"


@pytest.mark.usefixtures("docker_is_silent")
def test_with_data_of_both_and_without_docker_it_is_an_error(root: Path) -> None:
    data(root, "pg", "embedded")
    with pytest.raises(StackError, match=r"Docker does not answer.*\n.*STACK_ENGINE=embedded"):
        choose.choose(root)


@pytest.mark.usefixtures("docker_answers")
def test_an_empty_directory_is_no_data(root: Path) -> None:
    (root / "data" / "embedded").mkdir()
    assert choose.choose(root).name == "docker"


@pytest.mark.usefixtures("docker_answers")
def test_database_url_alone_changes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@production.example.com/live")
    chosen = choose.choose(root)
    assert chosen.name == "docker"
    (root / ".env").write_text("DATABASE_URL=postgresql://u:p@production.example.com/live\n")
    assert choose.choose(root).name == "docker"


@pytest.mark.parametrize("name", ["docker", "embedded", "external"])
def test_a_chosen_engine_is_the_one(root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("STACK_ENGINE", name)
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@localhost/d")
    assert choose.choose(root).name == name


def test_external_without_a_url_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACK_ENGINE", "external")
    with pytest.raises(Refused, match="DATABASE_URL is not set"):
        choose.choose(root)


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
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as other:
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
