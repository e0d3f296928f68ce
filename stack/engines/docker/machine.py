"""What Docker knows of other checkouts on this machine; nothing where there is no Docker."""

from __future__ import annotations

from pathlib import Path

from stack.engines.docker.containers import LABEL, is_of
from stack.ground.errors import StackError
from stack.ground.run import look


def running_from(root: Path) -> list[str]:
    """Return the names of the containers that run from a checkout, under any project name; none without Docker."""
    keys = [".Names", f'.Label "{LABEL}.project.working_dir"', f'.Label "{LABEL}.project.config_files"']
    form = "\t".join(f"{{{{{key}}}}}" for key in keys)
    try:
        listed = look(["docker", "ps", "--filter", f"label={LABEL}.project", "--format", form]).stdout
    except StackError:
        return []
    rows = [dict(zip(("name", "directory", "files"), line.split("\t"), strict=True)) for line in listed.splitlines()]
    return [row["name"] for row in rows if is_of(row, root)]


def projects() -> dict[str, Path]:
    """Return the Compose projects that have containers, and the directory of each; empty without Docker."""
    keys = f'{{{{.Label "{LABEL}.project"}}}}\t{{{{.Label "{LABEL}.project.working_dir"}}}}'
    try:
        listed = look(["docker", "ps", "--all", "--filter", f"label={LABEL}.project", "--format", keys]).stdout
    except StackError:
        return {}
    return {name: Path(directory) for name, directory in (line.split("\t") for line in listed.splitlines())}
