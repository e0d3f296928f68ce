"""What the Convex backend is to the verbs: asked, copied while it stands still, stopped and started."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol

from stack.ground.volume import Place


class Still(Protocol):
    """A service that stands still."""

    why_stopped: str
    """Why it had to be stopped, which ends the connections of its clients; empty when it was frozen."""
    seconds: float
    """How long it has stood still, once it goes on."""

    def go_on(self) -> None:
        """Let it go on. Raises StackError when it does not."""


class Copying(Protocol):
    """A copy of a directory that is about to be made."""

    def ready(self) -> None:
        """Wait until it can begin. Raises StackError."""

    def go(self) -> None:
        """Make it, once it is ready; return when every byte has been read. Raises StackError."""

    def finish(self) -> int:
        """Wait until it is on the disk, and return the bytes in it. Raises StackError."""


class Convex(Protocol):
    """The Convex backend."""

    def directory(self) -> Path | None:
        """Return the directory in data/ that holds its state; None when that is elsewhere, or nothing is there.

        Its tables may be in our server: see `database`.
        """

    def elsewhere(self) -> Place | None:
        """Return where else its state is, as in a volume; None when it is in that directory, or there is none."""

    def database(self) -> str:
        """Return the database on our server in which it keeps its tables; empty when they are in its directory."""

    def image(self) -> tuple[str, str]:
        """Return its image, and when that was built; empty where nobody can tell."""

    def copying(
        self, source: Path, target: Path, image: str, *, still: bool = False
    ) -> AbstractContextManager[Copying]:
        """Begin to make ready to copy a directory to one next to it by an image's programs, whoever owns what is in it.

        `still`: it is to be copied while the backend stands still.
        """

    def packed(self, directory: Path) -> AbstractContextManager[IO[bytes]]:
        """Give a directory as a tar, whoever owns what is in it. Raises StackError."""

    def unpacking(self, directory: Path) -> AbstractContextManager[IO[bytes]]:
        """Give what a tar is written to that is unpacked into a directory, and on the disk when this is left."""

    def instance(self) -> str:
        """Return the name of its instance; empty where there is no backend."""

    def still(self) -> AbstractContextManager[Still]:
        """Let the backend stand still until this is left, or `go_on`; it does so too when this process is killed."""

    def stop(self) -> bool:
        """Stop the backend, and return whether it ran."""

    def start(self) -> None:
        """Start the backend again; return at once."""

    def key(self) -> str:
        """Return a new admin key."""

    def accepts(self, key: str) -> bool:
        """Return whether an admin key is a good one; False when the backend does not tell."""

    def check_dashboard(self) -> None:
        """Raise StackError when the dashboard does not run."""
