"""Directories that take their place together, though the command is killed between any two of its steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from stack.ground import trash

PARTS = ("pg", "convex", ".convex-1-snapshot-2")


class Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in PARTS:
        (tmp_path / "data" / f".new-{name}" / "file").mkdir(parents=True)
    return tmp_path


def take_place(root: Path) -> None:
    trash.take_place(root, {name: root / "data" / f".new-{name}" for name in PARTS}, "pg")


def there(root: Path) -> set[str]:
    return {path.name for path in (root / "data").iterdir()}


@pytest.mark.parametrize("steps", range(6))
def test_all_are_there_or_none_whenever_it_is_killed(root: Path, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, done = Path.rename, list[str]()

    def killed(path: Path, target: Path) -> Path:
        if len(done) == steps:
            raise Killed
        done.append(path.name)
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        if steps < 5:
            with pytest.raises(Killed):
                take_place(root)
        else:
            take_place(root)
    assert not ((root / "data" / "convex").exists() and not (root / "data" / "pg").exists())
    trash.settle(root)
    assert set(PARTS) & there(root) == (set(PARTS) if steps > 2 else set())
    assert not {name for name in there(root) if name.startswith(trash.BORN)}
    assert all((root / "data" / name / "file").is_dir() for name in set(PARTS) & there(root))
    # What is left is deleted by whoever deletes what lies aside.
    assert {path.name for path in trash.unfinished(root)} == there(root) - set(PARTS)


def test_a_part_never_follows_another_cluster(root: Path) -> None:
    (root / "data" / "pg").mkdir()
    (root / "data" / f"{trash.BORN}convex-{(root / 'data' / '.new-pg').stat().st_ino}").mkdir()
    trash.settle(root)
    assert "convex" not in there(root)


def test_what_has_the_place_already_stays(root: Path) -> None:
    (root / "data" / "pg").mkdir()
    (root / "data" / "convex" / "made").mkdir(parents=True)
    (root / "data" / f"{trash.BORN}convex-{(root / 'data' / 'pg').stat().st_ino}").mkdir()
    trash.settle(root)
    assert (root / "data" / "convex" / "made").is_dir()
