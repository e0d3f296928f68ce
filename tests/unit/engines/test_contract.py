"""The engines that need no Docker keep the contract."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.engines.choose import ENGINES
from stack.engines.embedded.engine import Embedded
from stack.engines.external import External
from stack.ground import settings
from stack.verbs.up import bring_up
from tests.contract import Contract
from tests.unit.conftest import embedded

pytestmark = pytest.mark.xdist_group("contract")  # they share a server


@pytest.fixture(scope="module")
def server(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with embedded(programs, tmp_path_factory.mktemp("contract"), POSTGRES_PASSWORD="hunter2") as made:
        bring_up(made, 60, pull=False, wait=True)
        yield made


class TestEmbedded(Contract):
    @pytest.fixture
    def engine(self, server: Embedded) -> Embedded:
        return server


class TestExternal(Contract):
    @pytest.fixture
    def engine(self, server: Embedded, tmp_path: Path) -> External:
        values = {"DATABASE_URL": server.endpoint().url(masked=False), "POSTGRES_BIN_DIR": server.settings.bin_dir}
        return External(settings.load(tmp_path, values), tmp_path)


def test_every_engine_of_the_registry_is_under_contract() -> None:
    assert set(ENGINES) == {"docker", "embedded", "external"}  # Docker's is an integration test
