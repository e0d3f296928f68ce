"""Where podman answers in Docker's place: the real engine and Compose, behind a `docker` with the words of podman's.

They are those of podman 5.4.2's service to Docker's client 28.2 and Compose 2.26, as they were seen.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.integration.checkout import containers, docker, fail, succeed

SHIM = """#!{python}
import re, subprocess, sys
argv = ["{docker}", *sys.argv[1:]]
if argv[1] == "version":
    print("podman 5.4.2" if "Podman Engine" in argv[-1] else "5.4.2")
elif argv[1] == "compose" and "up" in argv and "-" not in argv:
    print("can't set healthcheck.start_interval as feature require Docker Engine v25 or later", file=sys.stderr)
    sys.exit(1)
elif argv[1] == "ps":  # of adjacent ports it lists the first
    told = subprocess.run(argv, stdout=subprocess.PIPE, text=True)
    print(re.sub(r"(\\d+)-\\d+->(\\d+)-\\d+/tcp", r"\\1->\\2/tcp", told.stdout), end="")
    sys.exit(told.returncode)
else:
    sys.exit(subprocess.run(argv).returncode)
"""


@pytest.fixture
def podman(tmp_path: Path) -> dict[str, str]:
    """An environment in which podman seems to answer."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").write_text(SHIM.format(python=sys.executable, docker=shutil.which("docker")))
    (tmp_path / "bin/docker").chmod(0o755)
    return {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}


def test_podman_starts_what_it_can_and_finds_its_own_ports_again(copy: Path, podman: dict[str, str]) -> None:
    succeed(copy, "up", env=podman)
    before = containers(copy)
    for container in before.values():
        check = json.loads(docker("inspect", "--format", "{{json .Config.Healthcheck}}", container))
        assert "StartInterval" not in check
        assert check["Interval"] == 5 * 10**9
    succeed(copy, "up", env=podman)
    assert containers(copy) == before
    found = json.loads(succeed(copy, "doctor", "--json", env=podman))["findings"]
    assert "podman 5.4.2" in next(each["message"] for each in found if each["check"] == "platform")
    assert {each["state"] for each in found if each["check"] in ("platform", "ports", "services")} == {"ok"}
    succeed(copy, "down", env=podman)


@pytest.mark.alone
def test_what_else_podman_refuses_is_said(copy: Path, podman: dict[str, str]) -> None:
    shim = Path(podman["PATH"].partition(":")[0], "docker")
    shim.write_text(shim.read_text().replace(' and "-" not in argv', ""))
    fail(copy, 1, "up", env=podman, saying=("Docker refused:", "can't set healthcheck.start_interval"), within=20)
