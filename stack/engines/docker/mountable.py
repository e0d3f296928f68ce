"""How Docker is told to mount a directory; which paths it cannot, and what to do about them."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from stack.ground.errors import Refused

OURS = ("--rm", "--pull", "never", "--user", "0", "--security-opt", "label=disable")
"""How a container of ours runs: as root, whom SELinux lets at a directory of the user's."""
THROWAWAY = (*OURS, "--network", "none")
"""How one does that only looks at a directory, copies or deletes."""


def bind(place: Path, target: str = "/data") -> str:
    """Return what --mount is told of a directory, which is read as one line of CSV, and as what it is seen."""
    source = str(place).replace('"', '""')
    return f'type=bind,"source={source}",target={target}'


def unbindable(root: Path) -> tuple[str, str] | None:
    """Return why Docker cannot mount a folder of this checkout, by its path, and the way on; None when it can.

    A colon divides the parts of a mount, and a name that is no UTF-8 reaches Docker as another one.
    """
    wrong = [step for step in (*reversed(root.parents), root) if _unbindable_name(step.name)]
    if not wrong:
        return None
    free = re.sub(r"[:\udc80-\udcff]", "-", wrong[0].name)
    while os.path.lexists(wrong[0].with_name(free)):
        free += "-"
    why = "a colon in its path" if ":" in wrong[0].name else "a path that is not UTF-8"
    moved = wrong[0].with_name(free) / root.relative_to(wrong[0])
    words = " ".join(_typed(word) for word in ("mv", wrong[0], wrong[0].with_name(free)))
    return (
        f"Docker cannot mount a folder with {why}, and this checkout is in {root}.",
        f"Type `{words} && cd {_typed(moved)} && invoke up`, which gives the folder another name; or set"
        " STACK_ENGINE=embedded, and PostgreSQL runs without Docker.",
    )


def refuse_unbindable(root: Path) -> None:
    """Raise Refused when Docker cannot mount a folder of this checkout."""
    if found := unbindable(root):
        raise Refused(f"{found[0]} Nothing was started.", cure=found[1])


def _unbindable_name(name: str) -> bool:
    return ":" in name or any("\udc80" <= each <= "\udcff" for each in name)


def _typed(word: str | Path) -> str:
    """Return a word as a shell takes it, in letters that any terminal shows."""
    text = str(word)
    if text.isprintable():
        return shlex.quote(text)
    return (
        "$'"
        + "".join(
            f"\\x{byte:02x}" if not 32 <= byte < 127 or byte in b"'\\" else chr(byte) for byte in os.fsencode(text)
        )
        + "'"
    )
