"""The settings for an application, and the file that they are written to."""

import os
import stat
from pathlib import Path

import pytest
from dotenv import dotenv_values

from stack.ground.errors import Refused, StackError
from stack.verbs import env
from tests.fake import FakeBackend, FakeEngine

KEY = "CONVEX_SELF_HOSTED_ADMIN_KEY"


class Keys(FakeBackend):
    """A backend that takes the keys which it has given out."""

    def __init__(self) -> None:
        self.given: list[str] = []
        self.problem = ""

    def key(self) -> str:
        if self.problem:
            raise StackError(self.problem)
        self.given.append(f"convex-self-hosted|{len(self.given):04}")
        return self.given[-1]

    def accepts(self, key: str) -> bool:
        return key in self.given


class WithConvex(FakeEngine):
    convex: Keys

    def __init__(self, root: Path) -> None:
        super().__init__(root=root)
        self.convex = Keys()

    def page(self, service: str, port: int) -> str:
        return f"http://127.0.0.1:{port}"


@pytest.fixture
def engine(tmp_path: Path) -> WithConvex:
    return WithConvex(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    return tmp_path / "app" / ".env.local"


def write(engine: FakeEngine, file: Path, *, key: bool = True) -> None:
    env.write(engine, str(file), "dotenv", key=key)


def test_the_key_is_among_the_settings_unless_it_is_left_out(engine: WithConvex, tmp_path: Path) -> None:
    assert f"{KEY}='convex-self-hosted|0000'" in env.env(engine, "dotenv").splitlines()
    assert f"export {KEY}='convex-self-hosted|0001'" in env.env(engine, "shell").splitlines()
    assert KEY not in env.env(engine, "json", key=False)
    assert "CONVEX" not in env.env(FakeEngine(root=tmp_path), "dotenv")


def test_a_key_that_cannot_be_had_is_named(engine: WithConvex, capsys: pytest.CaptureFixture[str]) -> None:
    engine.convex.problem = "convex-backend is not running. Type `invoke up`."
    printed = env.env(engine, "dotenv")
    assert "CONVEX_SELF_HOSTED_URL=http://127.0.0.1:3210" in printed
    assert KEY not in printed
    assert f"{KEY} is left out: convex-backend is not running." in capsys.readouterr().err


def test_only_our_own_names_change_in_the_file(
    engine: WithConvex, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_bytes(b"# the app\r\nVITE_X=1\r\nexport PGPORT=99 # theirs\r\nPGHOST=localhost\r\nNAME=caf\xe9\r\n")
    file.chmod(0o640)
    write(engine, file)
    before, _, after = file.read_bytes().partition(b"DATABASE_URL=")
    assert before == b"# the app\r\nVITE_X=1\r\nexport PGPORT=1 # theirs\r\nPGHOST=localhost\r\nNAME=caf\xe9\r\n"
    assert after.count(b"\r\n") == after.count(b"\n") == 6
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    told = capsys.readouterr().err
    assert (
        f"Wrote {file}: PGPORT changed; DATABASE_URL, PGUSER, PGPASSWORD, PGDATABASE, CONVEX_SELF_HOSTED_URL, {KEY}"
        in told
    )
    assert "hunter2" not in told


def test_stdout_is_no_file_to_write(engine: WithConvex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match="`-` is stdout"):
        env.write(engine, "-", "dotenv")
    assert not Path("-").exists()
    env.write(engine, "./-", "dotenv")  # the cure for who means that
    assert dotenv_values("-")["PGPORT"] == "1"


def test_the_second_time_nothing_is_written(engine: WithConvex, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(engine, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert dotenv_values(file)[KEY] == "convex-self-hosted|0000"
    former = file.stat()
    write(engine, file)  # its key is good still
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (former.st_ino, former.st_mtime_ns)
    assert "was left as it is" in capsys.readouterr().err
    engine.convex.given[0] = "another secret's"
    write(engine, file)
    assert dotenv_values(file)[KEY] == "convex-self-hosted|0001"
    assert f"Wrote {file}: {KEY} changed." in capsys.readouterr().err
    write(engine, file, key=False)
    assert dotenv_values(file)[KEY] == "convex-self-hosted|0001"


def test_a_link_is_followed_and_stays(engine: WithConvex, file: Path, tmp_path: Path) -> None:
    (tmp_path / "shared.env").write_text("A=1\n")
    file.symlink_to("../shared.env")
    write(engine, file)
    assert file.is_symlink()
    assert dotenv_values(tmp_path / "shared.env")["PGUSER"] == "u"


def test_a_file_with_the_hosted_deployment_is_named(
    engine: WithConvex, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = file.with_name(".env")
    beside.write_text("# CONVEX_DEPLOYMENT=dev:old\n")
    file.write_text("\nA=1\n\nCONVEX_DEPLOYMENT=dev:quick-cat-123 # team\n")
    write(engine, file)
    told = capsys.readouterr().err
    assert f"{file}, line 4, sets CONVEX_DEPLOYMENT" in told
    assert "put # before that line" in told
    file.write_text(file.read_text().replace("CONVEX_D", "# CONVEX_D"))  # the cure
    beside.write_text("CONVEX_DEPLOYMENT=dev:quick-cat-123\n")
    write(engine, file)
    told = capsys.readouterr().err
    assert f"{beside}, line 1, sets CONVEX_DEPLOYMENT" in told
    assert f"{file}, line" not in told


@pytest.mark.parametrize("content", [b"\xff\xfeA\x00=\x001\x00\n\x00", b"A='it\nB=2\n"])
def test_what_cannot_be_changed_safely_is_refused(engine: WithConvex, file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(Refused, match="Nothing was written"):
        write(engine, file)
    assert file.read_bytes() == content


def test_places_that_are_no_applications_are_refused(engine: WithConvex, file: Path, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("POSTGRES_PORT=1\n")
    file.symlink_to(tmp_path / ".env")
    os.mkfifo(tmp_path / "pipe")
    for place in ("", str(tmp_path), str(tmp_path / "pipe"), str(tmp_path / ".env"), str(file)):
        with pytest.raises(Refused, match="Name the application's own"):
            env.write(engine, place, "dotenv")
    assert (tmp_path / ".env").read_text() == "POSTGRES_PORT=1\n"
    with pytest.raises(Refused, match="Leave out --format"):
        env.write(engine, "new", "json")


def test_a_folder_that_is_not_there_and_a_file_that_is_protected_are_told(
    engine: WithConvex, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StackError, match="No such file or directory"):
        write(engine, file.parent / "nowhere" / ".env")
    file.write_text("A=1\n")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anything
    with pytest.raises(StackError, match="write-protected"):
        write(engine, file)
    assert file.read_text() == "A=1\n"
