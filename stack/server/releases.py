"""The newest minor release of PostgreSQL 17 that this checkout knows, so that an older server can be told."""

from __future__ import annotations

import re

NEWEST = "17.12"
SEEN = "2026-11-27"
"""When that was the newest; `.ci/renew` writes both anew, with what is pinned."""


def behind(version: str) -> bool:
    """Return whether a version, as a server, a program or a package tells it, is an older release of that major."""
    major, newest = NEWEST.split(".")
    told = re.match(rf"{major}\.(\d+)", version)
    return told is not None and int(told[1]) < int(newest)
