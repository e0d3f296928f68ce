"""Where a second checkout's data comes from, and which settings come along with it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from stack.ground.errors import Refused
from stack.verbs import sibling


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two checkouts, the one that is to be filled and the one that has data."""
    for name in ("mine", "theirs"):
        (tmp_path / name / "stack").mkdir(parents=True)
        (tmp_path / name / "docker-compose.yml").touch()
    return tmp_path / "mine", tmp_path / "theirs"


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@x", *words], check=True, cwd=folder)


@pytest.mark.parametrize(
    ("theirs", "mine", "along"),
    [
        ("", "", {}),
        ("POSTGRES_USER=me", "", {"POSTGRES_USER": "me"}),
        ("POSTGRES_USER=me", "POSTGRES_USER=you", {"POSTGRES_USER": "me"}),
        ("", "POSTGRES_DB=mine", {"POSTGRES_DB": "convex_poc"}),
        ("POSTGRES_DB=", "POSTGRES_DB=", {}),
        ("POSTGRES_PASSWORD='pa$s word'", "", {"POSTGRES_PASSWORD": "'pa$s word'"}),
        ("", "CONVEX_INSTANCE_SECRET=" + "ab" * 32, {"CONVEX_INSTANCE_SECRET": ""}),
        ("POSTGRES_IMAGE=a:1", "", {"POSTGRES_IMAGE": "a:1"}),
        ("POSTGRES_IMAGE=a:1", "POSTGRES_IMAGE=b:1", {}),
        ("STACK_LAYERS=dev,gone,there", "", {"STACK_LAYERS": "'dev,there'"}),
        ("COMPOSE_PROJECT_NAME=x\nPOSTGRES_PORT=1\nBIND_ADDRESS=0.0.0.0\nSTACK_RESTART=always", "", {}),
    ],
)
def test_what_belongs_to_the_data_comes_along(
    two: tuple[Path, Path], theirs: str, mine: str, along: dict[str, str]
) -> None:
    for folder, text in zip(two, (mine, theirs), strict=True):
        (folder / ".env").write_text(f"{text}\n")
        for layer in ("dev", "there"):
            (folder / f"docker-compose.{layer}.yml").touch()
    assert sibling.along(*two) == along


def test_a_folder_of_a_worktree_finds_the_same_folder_of_the_main_one(two: tuple[Path, Path], tmp_path: Path) -> None:
    main = two[1].parent / "main"
    (main / "db" / "stack").mkdir(parents=True)
    (main / "db" / "stack" / "x").touch()
    (main / "db" / "docker-compose.yml").touch()
    git(main, "init", "-q")
    git(main, "add", "--all")
    git(main, "commit", "-qm", "x")
    git(main, "worktree", "add", "-q", str(tmp_path / "fix"))
    assert sibling.find(tmp_path / "fix" / "db", "") == main / "db"
    with pytest.raises(Refused, match="no worktree of another"):
        sibling.find(main / "db", "")


def test_a_bare_repository_has_no_data(two: tuple[Path, Path], tmp_path: Path) -> None:
    git(two[1], "init", "-q")
    git(two[1], "add", "--all")
    git(two[1], "commit", "-qm", "x")
    git(tmp_path, "clone", "-q", "--bare", str(two[1]), "bare")
    git(tmp_path / "bare", "worktree", "add", "-q", str(tmp_path / "fix"))
    with pytest.raises(Refused, match="--from DIR"):
        sibling.find(tmp_path / "fix", "")
    assert sibling.find(tmp_path / "fix", str(two[1])) == two[1]
