"""The Compose files of a checkout, and the layers that `up` was last told to start."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from stack.ground import files, regular
from stack.ground.errors import Refused

_FILE = ".layers"
"""In data/: what `up --layers` started, so that the other commands speak of the same services and the same data."""


def layer_files(root: Path, layers: tuple[str, ...], *, there: bool = False) -> list[Path]:
    """Return the Compose files of a checkout, the base first, or those that are `there`.

    Else raises Refused when that of a layer does not exist.
    """
    names = [root / name for name in ("docker-compose.yml", *(f"docker-compose.{layer}.yml" for layer in layers))]
    for file in names if not there else ():
        if not file.is_file():
            known = ", ".join(sorted(path.name.split(".")[1] for path in root.glob("docker-compose.*.yml"))) or "none"
            raise Refused(
                f"{file.relative_to(root)} does not exist, so there is no such layer. Layers here: {known}. Change"
                " --layers or STACK_LAYERS, and type `invoke up`."
            )
    return [file for file in names if file.is_file()]


def started(root: Path) -> str | None:
    """Return the layers that the last `up` was told with --layers, with commas between them; None: it was not."""
    with suppress(OSError):
        word, _, layers = regular.text(root / "data", _FILE).strip().partition(" ")
        return layers if word == "--layers" else None
    return None


def keep(root: Path, layers: str | None) -> None:
    """Write down with which layers `up` has started the stack; None for those of the settings."""
    if layers != started(root):
        files.write_text(root / "data" / _FILE, "" if layers is None else f"--layers {layers}\n")
