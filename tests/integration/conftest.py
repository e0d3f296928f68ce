"""Integration tests: the real commands on a real Docker Engine, in copies of this repository, never on your stack."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration import checkout
from tests.integration.checkout import snapshot, succeed, unique

Make = Callable[..., Path]


def pytest_report_header() -> str:
    return f"docker: {checkout.describe()}"


def need(problem: str) -> None:
    """Skip with the reason, or fail where Docker is required."""
    if problem and os.environ.get("REQUIRE_DOCKER") == "1":
        pytest.fail(f"REQUIRE_DOCKER=1, but {problem}", pytrace=False)
    if problem:
        pytest.skip(problem)


@pytest.fixture(scope="session")
def compose() -> None:
    """The Compose CLI; no daemon."""
    need(checkout.cli_problem())


@pytest.fixture(scope="session")
def images() -> dict[str, str]:
    """The images to test with, by the names of their settings."""
    need(checkout.images_problem())
    return checkout.images()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as it was when the tests began."""
    return snapshot(tmp_path_factory.mktemp("template"))


@pytest.fixture
def make(images: dict[str, str], template: Path, tmp_path: Path) -> Iterator[Make]:
    """Makes copies that are the test's own: make(folder name, SETTING=line in .env)."""
    with ExitStack() as made:
        yield lambda folder="", **lines: made.enter_context(
            checkout.checkout(template, tmp_path / (folder or unique()), **lines)
        )


@pytest.fixture(scope="module")
def make_shared(images: dict[str, str], template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Makes copies that the tests of a module share."""
    with ExitStack() as made:
        yield lambda **lines: made.enter_context(
            checkout.checkout(template, tmp_path_factory.mktemp("shared") / unique(), **lines)
        )


@pytest.fixture(scope="session")
def shared(images: dict[str, str], template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A stack that is up all the time, for tests that leave no trace in it."""
    with checkout.checkout(template, tmp_path_factory.mktemp("shared") / unique()) as made:
        succeed(made, "up")
        yield made


@pytest.fixture
def copy(make: Make) -> Path:
    """A copy with nothing started."""
    return make()


@pytest.fixture
def started(copy: Path) -> Path:
    """A copy of which the stack is up."""
    succeed(copy, "up")
    return copy
