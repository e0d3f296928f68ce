"""The directory in which the embedded server keeps its state."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from stack.engines.embedded import rights, shutdown
from stack.engines.embedded.home import Home, append
from stack.engines.embedded.postmaster import Postmaster
from stack.ground import disk
from stack.ground.errors import StackError
from stack.ground.volume import Place, Volume
from stack.server import pgdata, processes


class Data:
    """data/embedded of one checkout."""

    texts: Mapping[str, str] = MappingProxyType(  # all that the first needs to say stands on the command line
        {"postgresql.conf": "", "pg_hba.conf": f"local all all trust\n{pgdata.ADMIT}"}
    )

    def __init__(self, home: Home, postmaster: Postmaster) -> None:
        self.home = home
        self.postmaster = postmaster

    def directories(self) -> dict[str, Path]:
        """Return where the cluster is."""
        return {"embedded": self.home.directory}

    def volumes(self) -> dict[str, str]:
        """Return nothing: everything is in data/."""
        return {}

    def stores(self) -> dict[str, Place]:
        """Return where the cluster is."""
        return {"embedded": self.home.directory}

    def there(self, place: Place) -> bool:
        """Return whether a directory exists."""
        return isinstance(place, Path) and place.exists()

    def room(self, place: Place) -> int | None:
        """Return the bytes that are free on the disk of a directory."""
        return disk.free(place) if isinstance(place, Path) else None

    def place(self) -> Path:
        """Return where the cluster is, or would be."""
        return self.home.directory

    def read(self, *names: str) -> dict[str, str]:
        """Return files of the cluster as `pgdata.read` does; raises PermissionError when it is another user's."""
        return self.home.read(*names)

    def contents(self) -> pgdata.Contents | None:
        """Return what is in the cluster's directory; None when it is another user's."""
        return self.home.contents()

    def admits(self, rule: Sequence[str]) -> bool:
        """Return True: initdb's lines are about this machine, and so let in who works on it."""
        del rule
        return True

    def closed(self, path: Path) -> tuple[str, str] | None:
        """Return why the server may not use its directory, and the cure; None when it may."""
        facts = path.stat()
        account = rights.account(path, path.parent.parent)  # when this is root, `up` gives the data to the account
        if not account and facts.st_uid != os.geteuid():
            return processes.closed(path)
        if facts.st_mode & 0o027 and any(path.iterdir()):
            return (
                f"{path} has mode {facts.st_mode & 0o777:o}, so PostgreSQL refuses it.",
                f"Type `chmod 700 '{path}'`.",
            )
        return None

    def unusable(self) -> None:
        """Return None: a name does not matter to a server of this machine."""

    def append(self, name: str, text: str, *, instead: bool = False) -> None:
        """Add lines to a text file of the cluster, or make it of them; a server that runs reads it anew."""
        if instead:
            with contextlib.suppress(FileNotFoundError):
                (self.home.directory / name).replace(self.home.directory / f"{name}.damaged")
        append(self.home.directory / name, text)
        if state := self.postmaster.process():
            os.kill(state.pid, signal.SIGHUP)

    def holders(self, path: Place) -> list[processes.Holder]:
        """Return the server of a container, or of somebody else, that is at work on a directory.

        The own one, and what is left of it, is not told: it is stopped before a wipe, and waited for before a start.
        """
        found = None if isinstance(path, Volume) or self.postmaster.process() else processes.at_work_on(path)
        return [found] if found and isinstance(path, Path) and not shutdown.remains(path) else []

    def size(self, path: Place) -> int | None:
        """Return None: what this user may not read, this engine may not either."""
        del path
        return None

    def check_deletable(self, path: Place) -> None:
        """Do nothing: the files are here."""

    def delete(self, path: Place) -> None:
        """Refuse: this engine has no more rights than the user."""
        raise StackError(
            f"{path} holds files that another user owns. The stack no longer uses that directory. Delete it with"
            f" `sudo rm -rf '{path}'`."
        )
