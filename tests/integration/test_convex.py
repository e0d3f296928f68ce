"""The Convex backend and its dashboard, as far as this repository relies on them."""

from __future__ import annotations

from contextlib import closing
from http.client import HTTPConnection
from io import StringIO
from pathlib import Path

import pytest
from dotenv import dotenv_values

from tests.integration.checkout import run, succeed, value

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
