"""The Convex backend in its container."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from stack.engines.backend import Copying
from stack.engines.docker import copying, packing
from stack.engines.docker.containers import Containers
from stack.engines.docker.plan import BACKEND, published
from stack.engines.docker.words import explain
from stack.ground import catalog, disk
from stack.ground.errors import StackError
from stack.ground.run import PIPE, look, start
from stack.ground.volume import Place

LEAF = catalog.BACKEND.leaf


class Convex:
    """The backend of one checkout."""

    def __init__(self, containers: Containers) -> None:
        self.containers = containers
        self.plan = containers.plan

    def directory(self) -> Path | None:
        """Return the directory in data/ that holds its state; None when that is elsewhere, or nothing is there."""
        place = self.plan.places().get(LEAF)
        usual = self.plan.root / "data" / LEAF
        if not place or place != usual or not disk.has_data(place) or place.is_symlink():
            return None
        return place if self._row() or BACKEND in self.plan.config["services"] else None

    def elsewhere(self) -> Place | None:
        """Return where else its state is, as in a volume; None when it is in that directory, or there is none."""
        if self.plan.places().get(LEAF) == self.plan.root / "data" / LEAF:
            return None
        return self.plan.stores().get(LEAF)

    def database(self) -> str:
        """Return the database on our server in which it keeps its tables; empty when they are in its directory."""
        return self.plan.convex_database()

    def image(self) -> tuple[str, str]:
        """Return its image, and when that was built; empty where nobody can tell."""
        if row := self._row():
            name = self.containers.ask("inspect", "--format", "{{.Config.Image}}", row["id"]).strip()
        else:
            name = self.plan.config["services"].get(BACKEND, {}).get("image", "")
        told = look(["docker", "image", "inspect", "--format", "{{.Created}}", name])
        return name, told.stdout.strip()

    def copying(
        self, source: Path, target: Path, image: str, *, still: bool = False
    ) -> contextlib.AbstractContextManager[Copying]:
        """Begin to make ready to copy a directory to one next to it by an image's programs, whoever owns what is in it.

        `still`: it is to be copied while the backend stands still.
        """
        container, why_not = self._running() if still else ("", "")
        return copying.copying(source, target, image, "" if why_not else container)

    def packed(self, directory: Path) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Give a directory as a tar, whoever owns what is in it."""
        return packing.packed(directory, self.image()[0])

    def unpacking(self, directory: Path) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Give what a tar is written to that is unpacked into a directory, and on the disk when this is left."""
        return packing.unpacking(directory, self.image()[0])

    def instance(self) -> str:
        """Return the name of its instance, as Compose resolved it; empty where no layer has a backend."""
        environment = self.plan.config["services"].get(BACKEND, {}).get("environment", {})
        return str(environment.get("INSTANCE_NAME") or "")

    def _running(self) -> tuple[str, str]:
        """Return the id of the running backend, empty when none runs, and why its own process cannot be stopped."""
        row = self._row()
        if not row or row["state"] != "running":
            return "", ""
        init = self.containers.ask("inspect", "--format", "{{.HostConfig.Init}}", row["id"]).strip() == "true"
        return row["id"], "an init process stands before it" if init else ""

    @contextlib.contextmanager
    def still(self) -> Iterator[Still]:
        """Let the backend stand still until this is left, or `go_on`; it does so too when this process is killed.

        It is frozen by a signal, so that its clients stay connected, or stopped where that cannot be. `docker pause`
        would have Docker call it unhealthy until its next check, which is no start for what depends on it
        (moby/moby#46203).
        """
        still = Still(*self._running())
        try:
            still.begin()
            yield still
        finally:
            still.go_on()

    def stop(self) -> bool:
        """Stop the backend, and return whether it ran."""
        row = self._row()
        if not row or row["state"] not in ("running", "paused", "restarting"):
            return False
        if row["state"] == "paused":  # it would hear the signal only then
            self.containers.ask("unpause", row["id"])
        told = look(["docker", "stop", row["id"]])
        if told.returncode:
            raise explain(told.stderr)
        return True

    def start(self) -> None:
        """Start the backend again; return at once. Where it has no container, `up` makes one."""
        if row := self._row():
            self.containers.ask("start", row["id"])

    def _row(self) -> dict[str, str] | None:
        return next((row for row in self.containers.own() if row["service"] == BACKEND), None)

    def key(self) -> str:
        """Return a new admin key of the Convex backend."""
        result = look(["docker", "exec", self.containers.running(BACKEND), "./generate_admin_key.sh"])
        if result.returncode:
            raise StackError(f"The Convex backend made no admin key: {result.stderr.strip()}")
        return result.stdout.strip()

    def accepts(self, key: str) -> bool:
        """Return whether an admin key is a good one; False when the backend does not tell."""
        from http.client import HTTPConnection, HTTPException

        where = published(self.plan.config["services"].get(BACKEND, {}), catalog.BACKEND.port)
        if not where or not key.isprintable() or not key.isascii():
            return False
        connection = HTTPConnection(*where, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError, HTTPException):
            connection.request("GET", "/api/check_admin_key", headers={"Authorization": f"Convex {key}"})
            return connection.getresponse().status == 200
        return False

    def check_dashboard(self) -> None:
        """Raise StackError when the dashboard does not run."""
        self.containers.running(catalog.DASHBOARD.name)


class Still:
    """A container that stands still for as long as a pipe to a waiting shell is open, which ends with this process."""

    def __init__(self, container: str, why_stopped: str) -> None:
        self._container = container
        self.why_stopped = why_stopped
        self.seconds = 0.0

    def begin(self) -> None:
        """Freeze it, else stop it; nothing when it does not run. Raises StackError."""
        if not self._container:
            return
        # In a session of its own: neither Ctrl-C nor the end of the terminal reaches it.
        self._waiting = start(
            ["sh", "-c", 'read -r _; docker kill --signal CONT "$0" || docker start "$0"', self._container],
            stdin=PIPE, outlives=Path("/"),
        )  # fmt: skip
        self._begun = time.monotonic()
        if not self.why_stopped:
            told = look(["docker", "kill", "--signal", "STOP", self._container])
            self.why_stopped = " ".join(told.stderr.split()).rstrip(".") if told.returncode else ""
        if self.why_stopped:
            stopped = look(["docker", "stop", self._container])
            if stopped.returncode:
                raise explain(stopped.stderr)

    def go_on(self) -> None:
        """Let it go on. Raises StackError when it does not."""
        if not self._container:
            return
        container, self._container = self._container, ""
        assert self._waiting.stdin
        self._waiting.stdin.close()
        failed = self._waiting.wait()
        self.seconds = time.monotonic() - self._begun
        if failed:
            raise explain(look(["docker", "start", container]).stderr)
