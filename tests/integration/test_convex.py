"""The Convex backend and its dashboard, as far as this repository relies on them."""

from __future__ import annotations

from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.integration.checkout import run, succeed, value


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
