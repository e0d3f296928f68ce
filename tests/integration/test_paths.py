"""A checkout whose path Docker cannot mount."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import checkout
from tests.integration.checkout import ALONE, environment, fail, run, sql, succeed
from tests.integration.conftest import Make, copy_for

NAMES = ["a:b", "ro:", "with 'quotes': and space", os.fsdecode(b"latin-\xe4")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("above", [False, True])
def test_a_path_that_docker_cannot_mount_is_refused_and_the_cure_works(
    make: Make, tmp_path: Path, name: str, above: bool
) -> None:
    if above:
        (tmp_path / name).mkdir()
    copy = make(f"{name}/checkout" if above else name, **ALONE)
    said = fail(copy, 2, "up", saying=("Docker cannot mount a folder with a", "Nothing was started."))
    assert "invalid volume" not in said
    assert not list((copy / "data").glob("[a-z]*"))
    fail(copy, 2, "reset", "--yes")
    assert "Docker cannot mount a folder with a" in " ".join(run(copy, "doctor").stdout.split())
    assert run(copy, "status").returncode == 3
    assert run(copy, "down").returncode == 0
    cure = said.rpartition("Type `")[2].partition("`")[0]
    python = shlex.quote(sys.executable)
    typed = subprocess.run(
        ["bash", "-c", f'invoke() {{ {python} -m invoke "$@"; }}; {cure} && pwd'], check=False, cwd=copy, text=True,
        capture_output=True, env=environment(),
    )  # fmt: skip
    moved = Path(typed.stdout.strip().splitlines()[-1])
    try:
        assert typed.returncode == 0, typed.stderr
        assert sql(moved, "SELECT 1") == [1]
    finally:
        checkout.remove(moved)


@pytest.fixture(params=[*NAMES, "a,b"])
def embedded(request: pytest.FixtureRequest, template: Path) -> Iterator[Path]:
    """A copy near the root of the disk: where the path is long, the server's socket is elsewhere."""
    with (
        tempfile.TemporaryDirectory() as place,
        copy_for("embedded", template, Path(place, request.param), anew=True) as made,
    ):
        Path(place).chmod(0o711)  # root runs the server as somebody else
        yield made
        run(made, "down")


def test_without_docker_every_path_serves(embedded: Path) -> None:
    succeed(embedded, "up")
    assert succeed(embedded, "psql", "-c", "SELECT 1", "--", "-At") == "1\n"
    succeed(embedded, "snapshot", "one")
    succeed(embedded, "restore", "one")
    assert run(embedded, "status").returncode == 0
    succeed(embedded, "restart")
    succeed(embedded, "down")
    assert run(embedded, "status").returncode == 3
