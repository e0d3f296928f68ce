"""A place for data that has no path on this machine: a volume of what runs the containers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LAYER = "volumes"
"""The layer that keeps the services' state in volumes, in the place of directories in data/."""


@dataclass(frozen=True)
class Volume:
    """A volume with a name."""

    name: str

    def __str__(self) -> str:
        return f"Docker's volume {self.name}"

    def __truediv__(self, name: str) -> str:
        """Return what to call a file in it, as `/` does for a directory."""
        return f"{name} in {self}"


Place = Path | Volume
"""Where a service keeps its state."""
