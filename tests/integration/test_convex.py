"""The Convex backend and its dashboard, as far as this repository relies on them."""

from __future__ import annotations

import json
import subprocess
from contextlib import closing
from http.client import HTTPConnection
from io import StringIO
from pathlib import Path

import pytest
from dotenv import dotenv_values

from tests.integration.checkout import (
    STAND_INS,
    containers,
    docker,
    eventually,
    images,
    run,
    succeed,
    value,
)
from tests.integration.conftest import Make

KEY = "CONVEX_SELF_HOSTED_ADMIN_KEY"


def get(copy: Path, port: str, path: str, key: str = "") -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", int(value(copy, port)), timeout=10)
    with closing(connection):
        connection.request("GET", path, headers={"Authorization": f"Convex {key}"} if key else {})
        response = connection.getresponse()
        return response.status, response.read().decode()


@pytest.mark.parametrize("port", ["CONVEX_PORT", "CONVEX_DASHBOARD_PORT"])
def test_what_is_printed_answers(shared: Path, port: str) -> None:
    status, page = get(shared, port, "/")
    assert status == 200
    assert "Convex" in page


def test_admin_key_prints_a_key_that_the_backend_takes(shared: Path) -> None:
    result = run(shared, "admin-key")
    assert (result.returncode, result.stderr) == (0, "")
    key = result.stdout.removesuffix("\n")
    assert key.split() == [key]
    assert get(shared, "CONVEX_PORT", "/api/check_admin_key", key)[0] == 200
    assert 400 <= get(shared, "CONVEX_PORT", "/api/check_admin_key", key[:-1] + "!")[0] < 500
    assert 400 <= get(shared, "CONVEX_PORT", "/api/check_admin_key")[0] < 500


def test_env_has_a_key_that_the_backend_takes_and_an_applications_file_keeps_it(shared: Path, tmp_path: Path) -> None:
    values = dotenv_values(stream=StringIO(succeed(shared, "env")))
    assert get(shared, "CONVEX_PORT", "/api/check_admin_key", values[KEY] or "")[0] == 200
    assert KEY not in succeed(shared, "env", "--no-key")
    file = tmp_path / ".env.local"
    file.write_text(f"VITE_X=1 # ours\n{KEY}='convex-self-hosted|of another secret'\nCONVEX_DEPLOYMENT=dev:a-b-1\n")
    told = run(shared, "env", "--write", str(file))
    assert (told.returncode, told.stdout) == (0, "")
    assert f"Wrote {file}: {KEY} changed; DATABASE_URL," in told.stderr
    assert f"{file}, line 3, sets CONVEX_DEPLOYMENT" in told.stderr
    written = dotenv_values(file)
    assert (written["VITE_X"], written["PGPORT"]) == ("1", value(shared, "POSTGRES_PORT"))
    assert get(shared, "CONVEX_PORT", "/api/check_admin_key", written[KEY] or "")[0] == 200
    former = file.read_text()
    assert "was left as it is" in run(shared, "env", "--write", str(file)).stderr
    assert file.read_text() == former


def test_without_a_backend_the_rest_is_written_all_the_same(copy: Path) -> None:
    told = run(copy, "env", "--write", "mine.env")
    assert told.returncode == 0
    assert f"{KEY} is left out: convex-backend is not running. Type `invoke up`" in told.stderr
    assert dotenv_values(copy / "mine.env")["CONVEX_SELF_HOSTED_URL"]
    succeed(copy, "up")
    succeed(copy, "env", "--write", "mine.env")
    assert get(copy, "CONVEX_PORT", "/api/check_admin_key", dotenv_values(copy / "mine.env")[KEY] or "")[0] == 200


def test_an_admin_key_stays_valid_with_the_data(started: Path) -> None:
    key = succeed(started, "admin-key").strip()
    succeed(started, "restart", "convex-backend")
    assert get(started, "CONVEX_PORT", "/api/check_admin_key", key)[0] == 200
    succeed(started, "reset-data", "--service", "convex", "--yes")
    succeed(started, "up")
    assert 400 <= get(started, "CONVEX_PORT", "/api/check_admin_key", key)[0] < 500


def test_dashboard_prints_its_address_and_opens_it(shared: Path, tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >"{tmp_path}/opened"\n')
    browser.chmod(0o755)
    address = f"http://127.0.0.1:{value(shared, 'CONVEX_DASHBOARD_PORT')}"
    assert succeed(shared, "dashboard", env={"BROWSER": str(browser)}).strip() == address
    assert (tmp_path / "opened").read_text().strip() == address


def layer(copy: Path, **backend: object) -> None:
    """Change the backend in a layer of the copy's own."""
    (copy / "docker-compose.mine.yml").write_text(json.dumps({"services": {"convex-backend": backend}}))


def asked_from_inside(copy: Path, origin: str) -> tuple[bool, str]:
    """Return whether a Node in the backend's container gets an answer from one of its origins, and what that is."""
    if images() == STAND_INS:  # it asks as a Node action does
        status, said = get(copy, "CONVEX_PORT", f"/stand-in/origin/{origin}")
        return status == 200, said
    fetch = f"fetch(process.env.CONVEX_{origin}_ORIGIN).then((answer) => answer.text()).then(console.log)"
    told = subprocess.run(["docker", "exec", containers(copy)["convex-backend"], "node", "-e", fetch], check=False,
                          capture_output=True, encoding="utf-8")  # fmt: skip
    return told.returncode == 0, told.stdout + told.stderr


def calls_itself(copy: Path) -> bool:
    """Whether what a Node action calls answers, at both origins."""
    (cloud, page), (site, said) = (asked_from_inside(copy, origin) for origin in ("CLOUD", "SITE"))
    assert cloud == site, (page, said)
    assert "Convex deployment is running" in page if cloud else "ECONNREFUSED" in page
    return cloud


def test_node_actions_reach_the_backend_on_whatever_port_it_is(make: Make) -> None:
    copy = make(STACK_LAYERS="mine")
    layer(copy)
    succeed(copy, "up")
    assert value(copy, "CONVEX_PORT") != "3210"
    eventually(lambda: calls_itself(copy))
    backend = containers(copy)["convex-backend"]
    docker("kill", "--signal", "KILL", backend)  # as a crash
    docker("start", backend)
    succeed(copy, "wait-healthy")
    eventually(lambda: calls_itself(copy))
    docker("stop", backend)
    assert docker("inspect", "--format", "{{.State.ExitCode}}", backend) == "0"
    # Without what forwards, nothing answers there.
    layer(copy, entrypoint=["./run_backend.sh"])
    succeed(copy, "up")
    assert not calls_itself(copy)


def test_on_its_own_ports_nothing_is_forwarded(make: Make) -> None:
    copy = make(STACK_LAYERS="mine")
    # What the container is told on 3210 and 3211; another stack of this machine may have those.
    layer(
        copy,
        environment={"CONVEX_CLOUD_ORIGIN": "http://127.0.0.1:3210", "CONVEX_SITE_ORIGIN": "http://127.0.0.1:3211"},
    )
    succeed(copy, "up")
    assert calls_itself(copy)
    assert "node" not in docker("top", containers(copy)["convex-backend"])
