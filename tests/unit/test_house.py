"""The floors of the house: imports run downward only."""

import ast
from pathlib import Path

import pytest

from stack.settings import ROOT

FLOORS = [
    {"process"},
    {"settings", "service", "talk", "cli", "tokens", "pieces", "patterns", "lines", "copies", "variables"},
    {"guards", "ports", "programs", "places", "rights", "shutdown", "sources", "files", "lexer"},
    {"frames", "roles"},
    {"compose", "embedded", "external", "includes", "create_role"},
    {"engine", "init", "databases", "trust"},
    {"refusals", "statements"},
    {"postgres", "ready", "script"},
    {"blocked", "spool"},
    {"cluster", "dumps"},
    {"snapshots"},
    {"wipe"},
    {"report", "doctor"},
]
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}


def imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "stack":
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stack."):
            found.add((node.module or "").split(".")[1])
    return found


@pytest.mark.parametrize("file", sorted((ROOT / "stack").glob("[a-z]*.py")), ids=lambda file: file.stem)
def test_a_room_uses_only_the_floors_below(file: Path) -> None:
    above = {room for room in imported(file) if FLOOR[room] >= FLOOR[file.stem]}
    assert not above


def test_only_one_room_spells_docker() -> None:
    spelled = {file.stem for file in (ROOT / "stack").glob("*.py") if '"docker"' in file.read_text()}
    assert spelled <= {
        "compose",
        "settings",
        "process",
        "engine",
    }  # a setting's value, and what is said when it is not there


def test_only_one_room_drops_databases() -> None:
    assert {file.stem for file in (ROOT / "stack").glob("*.py") if "DROP DATABASE" in file.read_text()} == {"snapshots"}


def test_only_one_room_deletes() -> None:
    words = ("rmtree", "os.remove", ".unlink(")  # rmdir takes empty directories only
    deleting = {file.stem for file in (ROOT / "stack").glob("*.py") if any(word in file.read_text() for word in words)}
    assert deleting == {"wipe", "embedded"}
    embedded = (ROOT / "stack" / "embedded.py").read_text()
    assert [word for word in words if word in embedded] == [".unlink("]  # the lock file of a dead server
    assert embedded.count(".unlink(") == 1
