"""What a deletion would take, in words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stack.ground.talk import human
from stack.ground.volume import Place
from stack.verbs.names import STEP

LEAVES = {
    "pg": "every database of the PostgreSQL cluster",
    "convex": "every Convex deployment: tables, files, and the admin keys",
    "embedded": "every database of the embedded PostgreSQL cluster",
}
OF_FILES = "every Convex deployment: files, and the admin keys"


@dataclass(frozen=True)
class Loss:
    """A directory or a volume that is about to be deleted."""

    leaf: str
    path: Place
    size: int | None
    """In bytes; None when nobody here can tell."""

    snapshots: tuple[str, ...] = ()
    halves: tuple[Path, ...] = ()
    """The directories of Convex that belong to them, and go with them."""
    tables: str = ""
    """The database in which Convex keeps its tables; empty: they are in its directory."""

    def __str__(self) -> str:
        size = "size unknown" if self.size is None else human(self.size)
        names = [each for each in self.snapshots if not each.startswith(STEP)]
        with_it = f", and its snapshots {', '.join(names)}" if names else ""
        with_it += "".join(
            f", and what `invoke undo` would bring back: {each.removeprefix(STEP)}"
            for each in self.snapshots
            if each.startswith(STEP)
        )
        if self.halves and self.leaf == "convex":
            with_it += "; what snapshots keep of it stays"
        elif self.halves:
            with_it += ", with what they keep of Convex"
        what = LEAVES[self.leaf]
        if self.tables:
            what = f"{what}, and Convex's tables with them ({self.tables})" if self.leaf == "pg" else OF_FILES
        return f"{self.path}  ({size}): {what}{with_it}"
