"""The floors of the house: imports run downward only, and some things are done in one room alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.ground.settings import ROOT
from tests.house import FLOORS, HOUSE, ROOMS, drawn, first_line


def floor(room: tuple[str, ...]) -> int:
    return FLOORS.index(room[0]) if room[0] in FLOORS else len(FLOORS)


def imported(file: Path) -> Iterator[tuple[str, ...]]:
    """Yield the rooms that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "stack":
            path = tuple((node.module or "").split(".")[1:])
            is_folder = (HOUSE.joinpath(*path)).is_dir()
            yield from ((*path, name.name) for name in node.names) if is_folder else (path,)


def name(file: Path) -> str:
    return str(file.relative_to(HOUSE).with_suffix(""))


@pytest.mark.parametrize("file", ROOMS, ids=name)
def test_a_room_uses_only_its_own_floor_and_those_below(file: Path) -> None:
    own = floor(file.relative_to(HOUSE).parts)
    assert not {room for room in imported(file) if floor(room) > own}


def test_no_two_rooms_use_each_other() -> None:
    uses = {file.relative_to(HOUSE).with_suffix("").parts: set(imported(file)) for file in ROOMS}
    while ground := [room for room, used in uses.items() if not used & uses.keys()]:
        for room in ground:
            del uses[room]
    assert not uses


@pytest.mark.parametrize("file", ROOMS, ids=name)
def test_a_room_is_no_hall(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 300


def in_code(word: str) -> set[str]:
    return {name(file) for file in ROOMS if word in file.read_text()}


def test_one_folder_spells_docker() -> None:
    elsewhere = {room for room in in_code('"docker"') if not room.startswith("engines/docker/")}
    assert elsewhere == {"engines/choose", "ground/errors", "ground/settings"}  # a setting, and what is said without it


def test_only_one_room_drops_databases() -> None:
    assert in_code("DROP DATABASE") == {"verbs/drop"}


def test_only_one_room_deletes() -> None:
    words = ("rmtree", "os.remove", ".unlink(")  # rmdir takes empty directories only
    assert set().union(*map(in_code, words)) == {"verbs/wipe", "engines/embedded/postmaster"}
    postmaster = (HOUSE / "engines" / "embedded" / "postmaster.py").read_text()
    assert [word for word in words if word in postmaster] == [".unlink("]  # the lock file of a dead server
    assert postmaster.count(".unlink(") == 1


@pytest.mark.parametrize("file", ROOMS, ids=name)
def test_a_function_is_a_screen_at_most(file: Path) -> None:
    functions = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert not {name: lines for name, lines in lengths.items() if lines > 60}


def test_the_readme_has_the_map() -> None:
    assert drawn() in (ROOT / "README.md").read_text(), "draw it anew: python -m tests.house"


@pytest.mark.parametrize("file", ROOMS, ids=name)
def test_a_room_says_in_one_line_what_it_is_for(file: Path) -> None:
    assert first_line(file).endswith((".", ":"))
    assert len(first_line(file)) <= 120
