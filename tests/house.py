"""The map of the house, made from the first line of each room: `python -m tests.house` prints it for the README."""

import ast
from pathlib import Path

from stack.ground.settings import ROOT

FLOORS = ("ground", "sql", "server", "engines", "verbs", "doctor", "commands")
"""From the lowest."""
HOUSE = ROOT / "stack"
ROOMS = sorted(HOUSE.rglob("[a-z]*.py"))


def first_line(file: Path) -> str:
    return (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]


def drawn() -> str:
    lines = ["| room | what it is for |", "|---|---|"]
    for floor in reversed(FLOORS):
        for folder in [HOUSE / floor, *sorted(path.parent for path in (HOUSE / floor).glob("*/__init__.py"))]:
            lines.append(f"| **{folder.relative_to(HOUSE)}/** | {first_line(folder / '__init__.py')} |")
            lines += [f"| `{room.stem}` | {first_line(room)} |" for room in sorted(folder.glob("[a-z]*.py"))]
    return "\n".join(lines)


if __name__ == "__main__":
    print(drawn())
