"""Each service of the stack once: what it is called, where it keeps its state, where it is reached.

A new service is its Compose layer and one line here; a test holds both, the settings and the README together.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A service as the Compose files have it."""

    name: str
    port: int
    """TCP, inside its container."""
    title: str
    """What people call its address."""
    image: str
    """The setting that names its image."""
    published: str
    """The setting of its port on this machine."""
    leaf: str = ""
    """Its directory in data/, when it keeps state."""
    home: str = ""
    """Where its container has that directory."""
    variable: str = ""
    """What `invoke env` calls its page, for programs that ask."""


POSTGRES = Entry("postgres", 5432, "PostgreSQL", "POSTGRES_IMAGE", "POSTGRES_PORT", "pg", "/var/lib/postgresql/data")
BACKEND = Entry(
    "convex-backend", 3210, "Convex", "CONVEX_BACKEND_IMAGE", "CONVEX_PORT", "convex", "/convex/data",
    variable="CONVEX_SELF_HOSTED_URL",
)  # fmt: skip
DASHBOARD = Entry("convex-dashboard", 6791, "Convex dashboard", "CONVEX_DASHBOARD_IMAGE", "CONVEX_DASHBOARD_PORT")
SERVICES = (BACKEND, DASHBOARD, POSTGRES)
PAGES = tuple(entry for entry in SERVICES if entry is not POSTGRES)
"""Those that a browser or an HTTP client reaches."""
STATEFUL = {entry.leaf: entry for entry in SERVICES if entry.leaf}
"""Those that keep state, by their directory in data/."""
