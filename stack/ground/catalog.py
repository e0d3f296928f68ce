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
    image: tuple[str, str]
    """The setting that names its image, and its default."""
    published: tuple[str, str]
    """The setting of its port on this machine, and its default."""
    also: tuple[tuple[str, str], ...] = ()
    """The same of further ports that it has."""
    leaf: str = ""
    """Its directory in data/, when it keeps state."""
    home: str = ""
    """Where its container has that directory."""
    variable: str = ""
    """What `invoke env` calls its page, for programs that ask."""


POSTGRES = Entry(
    "postgres", 5432, "PostgreSQL",
    ("POSTGRES_IMAGE", "postgres:17.11-trixie@sha256:d74eeac9a635390a49bc21bd49fccd973de707e2a53a76ac49b552b8712ec46f"),
    ("POSTGRES_PORT", "5433"), leaf="pg", home="/var/lib/postgresql/data",
)  # fmt: skip
BACKEND = Entry(
    "convex-backend", 3210, "Convex",
    ("CONVEX_BACKEND_IMAGE", "ghcr.io/get-convex/convex-backend:19431ea0dd90bc55ae58dbbd06d9aa045f97336f"
     "@sha256:467964cc6af57ba3e757e3e6cb1fa09a1c577803a19f03f0f42c9c4b134b070c"),
    ("CONVEX_PORT", "3210"), (("CONVEX_SITE_PORT", "3211"),), leaf="convex", home="/convex/data",
    variable="CONVEX_SELF_HOSTED_URL",
)  # fmt: skip
DASHBOARD = Entry(
    "convex-dashboard", 6791, "Convex dashboard",
    ("CONVEX_DASHBOARD_IMAGE", "ghcr.io/get-convex/convex-dashboard:19431ea0dd90bc55ae58dbbd06d9aa045f97336f"
     "@sha256:5f4620ca0640ed863a8c5109123b9831157e889c6294e28c5e96ea0a62375efb"),
    ("CONVEX_DASHBOARD_PORT", "6791"),
)  # fmt: skip
SERVICES = (BACKEND, DASHBOARD, POSTGRES)
PAGES = tuple(entry for entry in SERVICES if entry is not POSTGRES)
"""Those that a browser or an HTTP client reaches."""
STATEFUL = {entry.leaf: entry for entry in SERVICES if entry.leaf}
"""Those that keep state, by their directory in data/."""
IMAGES = dict(entry.image for entry in SERVICES)
"""The settings of the images, with their defaults."""
PORTS = dict(port for entry in (POSTGRES, *PAGES) for port in (entry.published, *entry.also))
"""The settings of the ports, with their defaults."""
