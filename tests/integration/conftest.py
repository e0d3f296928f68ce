"""Integration tests: the real commands on a real Docker Engine, in copies of this repository, never on your stack."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from stack.ground import settings
from stack.ground.lock import exclusive
from stack.server.programs import server_programs
from tests.integration import checkout
from tests.integration.checkout import ALONE, run, snapshot, succeed, unique

Make = Callable[..., Path]
ALONE_FILE = """
services:
  convex-backend: !reset null
  convex-dashboard: !reset null
"""


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
def counted(images: dict[str, str]) -> None:
    """A backend with a number that a test raises and reads over HTTP, as the stand-in has one."""
    if images != checkout.STAND_INS:
        pytest.skip("the published backend has no number that is read over HTTP without a deployed function")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as it was when the tests began."""
    made = snapshot(tmp_path_factory.mktemp("template"))
    (made / "docker-compose.alone.yml").write_text(ALONE_FILE)
    # A probe costs 60 ms of a core: ten a second, for each of four workers, would be more than two cores have.
    for file in (made / "docker-compose.yml", made / "docker-compose.dev.yml"):
        file.write_text(re.sub(r"(?<=start_interval: )\d+ms", "400ms", file.read_text()))
    for code in ("stack", "tasks.py"):  # once here, not in every copy
        subprocess.run([sys.executable, "-m", "compileall", "-q", code], check=True, cwd=made)
    return made


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
    """A stack that is up all the time, for tests that leave no trace in it. Each worker has its own."""
    with checkout.checkout(template, tmp_path_factory.mktemp("shared") / unique()) as made:
        succeed(made, "up")
        yield made


@pytest.fixture
def copy(make: Make, request: pytest.FixtureRequest) -> Path:
    """A copy with nothing started; of PostgreSQL without Convex in a test that is marked `alone`."""
    return make(**(ALONE if request.node.get_closest_marker("alone") else {}))


@pytest.fixture
def started(copy: Path, template: Path) -> Path:
    """A copy of which the stack is up."""
    begin(copy, "docker", template)
    succeed(copy, "up")
    return copy


@contextmanager
def copy_for(engine: str, template: Path, folder: Path, *, anew: bool = False) -> Iterator[Path]:
    """Make a copy of PostgreSQL alone on an engine, that was up and is down; or never up, `anew`.

    Its programs are those of this checkout, not fetched once more.
    """
    if engine == "docker":
        need(checkout.images_problem())
        lines = ALONE
    else:
        with exclusive(settings.ROOT, timeout=600):  # another worker may be fetching them
            lines = {"POSTGRES_BIN_DIR": f"'{server_programs(settings.ROOT)}'"}
    with checkout.checkout(template, folder, STACK_ENGINE=engine, **lines) as made:
        if not anew:
            begin(made, engine, template)
        yield made


def begin(copy: Path, engine: str, template: Path) -> None:
    """Give a copy with nothing started the cluster of a first start, which takes two thirds of what `up` takes."""
    if os.geteuid() != 0:
        return  # the files are the server's user's
    name = "pg" if engine == "docker" else engine
    made = template.with_name(f"begun-{name}")
    if not made.exists():
        with copy_for(engine, template, template.with_name(unique()), anew=True) as first:
            succeed(first, "up")
            succeed(first, "down")
            subprocess.run(["cp", "-a", str(first / "data" / name), str(made)], check=True)
    subprocess.run(["cp", "-aT", str(made), str(copy / "data" / name)], check=True)


@pytest.fixture(params=["docker", "embedded"])
def either(request: pytest.FixtureRequest, template: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of PostgreSQL alone, on each engine in turn, that was up and is down; or never up, marked `anew`."""
    anew = request.node.get_closest_marker("anew") is not None
    with copy_for(request.param, template, tmp_path / unique(), anew=anew) as made:
        yield made
        run(made, "down")
