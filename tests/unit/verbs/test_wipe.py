import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from stack.ground.errors import Refused, StackError
from stack.ground.volume import Place
from stack.server.processes import Holder
from stack.verbs import wipe
from tests.fake import FakeEngine


def down(root: Path, holders: Sequence[Holder] = ()) -> FakeEngine:
    """A stack that is down, in `root`."""
    return FakeEngine(root=root, holders=holders)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for leaf in ("pg", "convex"):
        (tmp_path / "checkout" / "data" / leaf).mkdir(parents=True)
        (tmp_path / "checkout" / "data" / leaf / "PG_VERSION").write_text("17")
    return tmp_path / "checkout"


def run(engine: Any, service: str = "", **options: bool) -> None:
    wipe.ask_and_wipe(engine, service, yes=options.get("yes", True), dry_run=options.get("dry_run", False))


def test_it_deletes_the_data_and_leaves_nothing_aside(root: Path) -> None:
    run(down(root))
    assert list((root / "data").iterdir()) == []


def test_one_service_can_be_chosen(root: Path) -> None:
    run(down(root), "pg")
    assert [path.name for path in (root / "data").iterdir()] == ["convex"]


def test_an_unknown_service_is_refused(root: Path) -> None:
    with pytest.raises(Refused, match="pg, convex"):
        run(down(root), "postgres")


def test_dry_run_shows_and_deletes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(down(root), dry_run=True)
    assert (root / "data" / "pg" / "PG_VERSION").exists()
    assert str(root / "data" / "pg") in capsys.readouterr().err


def test_without_terminal_and_yes_it_refuses(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(Refused, match="--yes"):
        run(down(root), yes=False)
    assert (root / "data" / "pg" / "PG_VERSION").exists()


def test_a_symbolic_link_is_refused_and_what_it_leads_to_is_safe(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (root / "data" / "pg").rename(outside)
    (root / "data" / "pg").symlink_to(outside)
    with pytest.raises(Refused, match="symbolic link"):
        run(down(root))
    assert (outside / "PG_VERSION").exists()
    assert (root / "data" / "convex").exists()


def test_data_itself_may_not_be_a_link(root: Path, tmp_path: Path) -> None:
    (root / "data").rename(tmp_path / "data")
    (root / "data").symlink_to(tmp_path / "data")
    with pytest.raises(Refused, match="symbolic link"):
        run(down(root))
    assert (tmp_path / "data" / "pg" / "PG_VERSION").exists()


def test_a_file_in_its_place_is_refused(root: Path) -> None:
    (root / "data" / "pg" / "PG_VERSION").unlink()
    (root / "data" / "pg").rmdir()
    (root / "data" / "pg").write_text("precious")
    with pytest.raises(Refused, match="not a directory"):
        run(down(root))
    assert (root / "data" / "pg").read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("data", "data"),
        ("other", "data/other"),
        ("pg", "elsewhere/pg"),
        ("pg", "data/convex"),
        ("pg", "../data/pg"),
        ("pg", "data/pg/../pg"),
    ],
)
def test_nothing_but_the_named_leaves_is_ever_deleted(root: Path, name: str, path: str) -> None:
    with pytest.raises(Refused, match="not a data directory"):
        wipe.check(root, name, root / path)


def test_a_directory_that_a_container_uses_is_refused(root: Path) -> None:
    with pytest.raises(Refused, match="docker stop stranger"):
        run(down(root, [Holder("the container stranger", "docker stop stranger")]))
    assert (root / "data" / "pg" / "PG_VERSION").exists()


def test_the_next_wipe_finishes_what_a_dead_one_moved_aside(root: Path) -> None:
    (root / "data" / "pg").rename(root / "data" / ".wiped-pg-1")
    run(down(root))
    assert list((root / "data").iterdir()) == []


def test_a_link_that_lies_aside_is_removed_and_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").touch()
    (root / "data" / ".wiped-pg-1").symlink_to(outside)
    wipe.sweep(down(root))
    assert (outside / "canary").exists()
    assert not (root / "data" / ".wiped-pg-1").is_symlink()


def test_names_that_cannot_be_read_or_deleted_do_not_stop_it(root: Path) -> None:
    names = root / "data" / ".pg-snapshots"
    names.write_bytes(b"\xff\n")
    assert [loss.snapshots for loss in wipe.losses(down(root), "pg")] == [("\ufffd",)]
    names.unlink()
    names.mkdir()
    run(down(root))
    assert list((root / "data").iterdir()) == [names]


def test_a_file_has_no_size_as_a_directory_and_is_nothing_that_we_left(root: Path) -> None:
    file = root / "data" / ".new-mine"
    file.write_text("precious")
    assert wipe.size(down(root), file) == 0
    wipe.sweep(down(root))
    assert file.read_text() == "precious"


def test_a_dump_that_another_command_writes_is_spared(root: Path) -> None:
    program = """
import os, sys
vars(os).pop("O_TMPFILE", None)  # where every file has a name from its first byte
from stack.ground import files
files.write(sys.argv[1], lambda stream: (stream.write(b"all"), print(flush=True), input()))
"""
    argv = [sys.executable, "-c", program, str(root / "data" / "my.dump")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writing:
        assert writing.stdout
        writing.stdout.readline()
        wipe.sweep(down(root))
        writing.communicate(b"\n")
    assert writing.returncode == 0
    assert (root / "data" / "my.dump").read_bytes() == b"all"


def test_what_a_living_command_is_making_is_spared_and_what_a_dead_one_left_is_not(root: Path) -> None:
    data = root / "data"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        dead = subprocess.Popen(["true"])
        dead.wait()
        names = {f".new-programs-{living.pid}": True, f".new-embedded-{living.pid}-x1": True,
                 f".new-embedded-{dead.pid}-x2": False, f".new-programs-{os.getpid()}": False,
                 ".new-without-a-number": False, f".wiped-pg-{living.pid}": False}  # fmt: skip
        for name in names:
            (data / name).mkdir()
        # Made before the process that has its number now began: another process's, then.
        reused = data / f".new-embedded-{living.pid}-x3"
        reused.mkdir()
        os.utime(reused, (0, time.time() - 3600))
        wipe.sweep(down(root))
        left = {path.name for path in data.iterdir()} - {"pg", "convex"}
        assert left == {name for name, stays in names.items() if stays}
        living.communicate(b"\n")
    wipe.sweep(down(root))
    assert {path.name for path in data.iterdir()} == {"pg", "convex"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a directory")
def test_a_directory_that_is_mounted_from_the_same_disk_is_refused(root: Path, tmp_path: Path) -> None:
    """It has the device of its parent, so `ismount` does not tell."""
    other = tmp_path / "other"
    for name in ("pg", "convex"):
        (other / name).mkdir(parents=True)
        (other / name / "rows").touch()
    subprocess.run(["mount", "--bind", other, root / "data"], check=True)
    try:
        with pytest.raises(Refused, match="is a mount point"):
            run(down(root), yes=True)
    finally:
        subprocess.run(["umount", root / "data"], check=True)
    assert (other / "pg" / "rows").exists()


@pytest.fixture
def stuck(root: Path) -> Iterator[Path]:
    """A leftover that nobody can delete: something is mounted in it."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    place = root / "data" / ".wiped-pg-1" / "mounted"
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], check=True)
    (place / "file").touch()
    yield place.parent
    subprocess.run(["umount", str(place)], check=True)


def helpless(root: Path) -> FakeEngine:
    """An engine that cannot delete what the user may not."""

    def delete(path: Place) -> None:
        raise StackError(f"{path} holds files that another user owns.", cure=f"`sudo rm -rf '{path}'`")

    engine = down(root)
    engine.data.delete = delete  # type: ignore[method-assign]
    return engine


def test_one_leftover_that_stays_stops_neither_the_others_nor_a_start(
    root: Path, stuck: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = root / "data" / ".wiped-pg-2"
    other.mkdir()
    wipe.tidy(helpless(root))
    assert not other.exists()
    assert str(stuck) in capsys.readouterr().err
    other.mkdir()
    with pytest.raises(StackError, match=str(stuck)):
        wipe.sweep(helpless(root))
    assert not other.exists()


def test_a_leftover_of_another_time_does_not_keep_anybody_from_deleting(
    root: Path, stuck: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(helpless(root), yes=True)
    assert not (root / "data" / "pg").exists()
    assert "Deleted." in (said := capsys.readouterr().err)
    assert str(stuck) in said


def test_leftovers_in_a_directory_that_may_not_be_written_are_told(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "data" / ".wiped-link").symlink_to(root)
    (root / "data").chmod(0o500)
    try:
        if os.geteuid() == 0:
            pytest.skip("root writes everywhere")
        wipe.tidy(helpless(root))
        assert ".wiped-link" in capsys.readouterr().err
    finally:
        (root / "data").chmod(0o700)
