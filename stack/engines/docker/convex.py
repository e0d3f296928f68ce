"""The Convex backend in its container."""

from __future__ import annotations

from stack.engines.docker.containers import Containers
from stack.engines.docker.plan import BACKEND
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

    def check_dashboard(self) -> None:
        """Raise StackError when the dashboard does not run."""
        self.containers.running(catalog.DASHBOARD.name)
