"""Every service is healthy and answers where `invoke status` says."""

from urllib.request import urlopen

import pytest

from stack.engines.base import Engine


def page(engine: Engine, service: str, port: int, path: str) -> str:
    base = engine.page(service, port)
    if not base:
        pytest.skip(f"the {engine.name} engine has no {service}")
    with urlopen(base + path, timeout=10) as response:  # noqa: S310 - the address is the stack's own
        assert response.status == 200
        return str(response.read().decode())


def test_every_service_is_healthy(engine: Engine) -> None:
    assert {service.name: str(service) for service in engine.services() if not service.ready} == {}


def test_the_convex_backend_tells_its_version(engine: Engine) -> None:
    assert page(engine, "convex-backend", 3210, "/version").strip()


def test_the_convex_backend_is_the_configured_instance(engine: Engine) -> None:
    assert page(engine, "convex-backend", 3210, "/instance_name").strip()


def test_the_dashboard_shows_its_page(engine: Engine) -> None:
    assert "Convex Dashboard" in page(engine, "convex-dashboard", 6791, "/")
