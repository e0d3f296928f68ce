"""File systems on which a container may not own its files, as sshfs, 9p and the drives of Windows are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.integration.checkout import configure, fail, sql, succeed, tables


@pytest.mark.alone
def test_a_container_that_may_not_own_its_files_says_why_and_the_cure_works(copy: Path) -> None:
    """Without the right to do so it hears from the kernel what it hears on `bindfs --chown-deny`."""
    layer = "services: {postgres: {cap_add: !override [DAC_OVERRIDE, FOWNER, SETGID, SETUID]}}\n"
    (copy / "docker-compose.deny.yml").write_text(layer)
    configure(copy, STACK_LAYERS="dev,alone,deny")
    said = fail(copy, 1, "up", saying=("chown: changing ownership", "does not let a container own its files"))
    cure = re.search(r"set STACK_LAYERS=(dev,volumes) in", said)
    assert cure
    configure(copy, STACK_LAYERS=f"{cure[1]},alone")
    succeed(copy, "down")
    succeed(copy, "up")
    sql(copy, "CREATE TABLE kept ()")
    assert tables(copy) == ["kept"]
    succeed(copy, "reset-data", "--yes")
