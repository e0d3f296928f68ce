"""The Convex backend in its container."""

from __future__ import annotations

import contextlib

from stack.engines.docker.containers import Containers
from stack.engines.docker.plan import BACKEND, published
from stack.ground import catalog
from stack.ground.errors import StackError
from stack.ground.run import look


class Convex:
    """The backend of one checkout."""

    def __init__(self, containers: Containers) -> None:
        self.containers = containers

    def key(self) -> str:
        """Return a new admin key of the Convex backend."""
        result = look(["docker", "exec", self.containers.running(BACKEND), "./generate_admin_key.sh"])
        if result.returncode:
            raise StackError(f"The Convex backend made no admin key: {result.stderr.strip()}")
        return result.stdout.strip()

    def accepts(self, key: str) -> bool:
        """Return whether an admin key is a good one; False when the backend does not tell."""
        from http.client import HTTPConnection, HTTPException

        where = published(self.containers.plan.config["services"].get(BACKEND, {}), catalog.BACKEND.port)
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
