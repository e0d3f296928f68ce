"""The floors of the house: imports run downward only."""

import ast
from pathlib import Path

from stack.settings import ROOT

ROOMS = sorted((ROOT / "stack").glob("[a-z]*.py"))


def imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "stack":
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stack."):
            found.add((node.module or "").split(".")[1])
    return found


def test_no_two_rooms_use_each_other() -> None:
    uses = {file.stem: imported(file) for file in ROOMS}
    while ground := [room for room, used in uses.items() if not used & uses.keys()]:
        for room in ground:
            del uses[room]
    assert not uses


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
