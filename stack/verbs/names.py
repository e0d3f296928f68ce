"""The names of the snapshots beside the data, for when the server is down."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from stack.engines.base import Engine
from stack.ground import files
from stack.server.admin import Cluster
from stack.verbs.drop import kept_back
from stack.verbs.store import every_one

STEP = "\tundo: "
"""How the line begins that tells what `undo` would bring back; no snapshot is called so."""


def names_of(directory: Path) -> Path:
    """Return the file that names the snapshots in a data directory, for when the server is down."""
    return directory.with_name(f".{directory.name}-snapshots")


def remember(engine: Engine, cluster: Cluster) -> None:
    """Write the names down beside the data, for when the server is down."""
    names = "".join(f"{each.name}\n" for each in every_one(cluster))
    if kept := kept_back(cluster):
        names += f"{STEP}{kept}\n"
    file = names_of(engine.root / "data" / cluster.directory.name)
    with suppress(OSError):  # another user's file; what it repeats is in the cluster
        if not file.exists() or file.read_text(encoding="utf-8", errors="replace") != names:
            files.write_text(file, names, mode=0o644)
