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

from tests.integration.checkout import containers, docker, fail, run, sql, succeed

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
elif argv[1:3] == ["exec", "-i"]:  # what is left of stdin when the program has ended finds nobody
    at = next(n for n, word in enumerate(argv) if n > 2 and argv[n - 1] != "--env" and not word.startswith("-")) + 1
    left = '"$@"; code=$?; test "$(wc -c)" -le 65536 && exit $code; echo "connection reset by peer" >&2; exit 1'
    sys.exit(subprocess.run([*argv[:at], "sh", "-c", left, "sh", *argv[at:]]).returncode)
else:
    sys.exit(subprocess.run(argv).returncode)
"""
MARK = """
services:
  postgres:
    volumes: ["./data/.gitkeep:/run/.containerenv:ro"]
"""
"""What podman puts into each of its containers."""


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


@pytest.mark.alone
def test_a_client_that_ends_before_its_input_does_is_heard(copy: Path, podman: dict[str, str]) -> None:
    """An archive is asked what is in it by a pg_restore that reads no more than that."""
    (copy / "docker-compose.mark.yml").write_text(MARK)
    succeed(copy, "up", "--layers", "dev,mark", env=podman)
    (copy / "bad.sql").write_text("SELECT 1/0;\n" + "SELECT 1;\n" * 100_000)
    for words in (("psql", "-f", "bad.sql"), ("load", "--clean", "--yes", "bad.sql")):
        said = run(copy, *words, env=podman)
        assert said.returncode == (3 if words[0] == "psql" else 1)
        assert "bad.sql:1: ERROR:  division by zero" in said.stderr
        assert "reset by peer" not in said.stderr
        assert "ON_ERROR_STOP" not in said.stderr
    sql(copy, "CREATE TABLE much AS SELECT n, md5(n::text) AS m FROM generate_series(1, 100000) AS n")
    for file in ("x.dump", "x.tar"):
        succeed(copy, "dump", file, env=podman)
        succeed(copy, "load", "--clean", "--yes", file, env=podman)
    assert sql(copy, "SELECT count(*) FROM much") == [100000]
