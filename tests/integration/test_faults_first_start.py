"""A power cut in a first start, at ten moments: the next `up` is usable, or tells the truth and the cure works."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.checkout import containers, docker, eventually, run, sql, succeed, tables

# What the image says on its way, in this order.
MOMENTS = [
    "The files belonging to this database system",
    "creating subdirectories",
    "creating configuration files",
    "running bootstrap script",
    "performing post-bootstrap initialization",
    "syncing data to disk",
    "Success. You can now start",
    "waiting for server to start",
    "server started",
    "init process complete",
]


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("moments", [MOMENTS[::2], MOMENTS[1::2]], ids=["odd", "even"])
def test_the_container_is_killed_in_its_first_start(copy: Path, moments: list[str]) -> None:
    for moment in moments:
        succeed(copy, "up", "--no-wait")
        server = containers(copy)["postgres"]
        eventually(lambda moment=moment, server=server: moment in docker("logs", server))  # type: ignore[misc]
        docker("kill", "--signal", "KILL", server)
        result = run(copy, "up")
        if result.returncode:
            assert result.returncode == 1
            assert "its first start was interrupted" in result.stderr, f"{moment}: {result.stderr}"
            # A start that was killed once the server had let people in lacks the database alone.
            assert "`invoke reset" in result.stderr or "`invoke doctor --fix`" in result.stderr
            assert "within 60 s" not in result.stderr  # waiting would change nothing, so it did not wait
        else:
            sql(copy, "CREATE TABLE works ()")
        # A server that finds no catalogs begins again without end and hears no stop signal: `down` would wait a minute.
        docker("kill", "--signal", "KILL", containers(copy)["postgres"])
        succeed(copy, "reset-data", "--yes")  # the cure: the next round is a first start once more
    succeed(copy, "up")
    assert tables(copy) == []
