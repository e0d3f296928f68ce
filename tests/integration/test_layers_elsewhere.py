"""A layer that does not exist is told on each engine, and numbers are told as a person says them."""

from pathlib import Path

import pytest

from tests.integration.checkout import configure, fail, run, sql, succeed


@pytest.mark.parametrize("layers", ["zzz", "dev,zzz", "../dev"])
def test_a_layer_that_does_not_exist_is_refused_on_each_engine(either: Path, layers: str) -> None:
    name = f"docker-compose.{layers.rpartition(',')[2]}.yml"
    said = fail(either, 2, "up", "--layers", layers, saying=(f"{name} does not exist", "Layers here: "))
    assert "Change --layers or STACK_LAYERS, and type `invoke up`." in said
    assert run(either, "status").returncode == 3
    succeed(either, "up", "--layers", "dev,alone")


def test_a_layer_of_the_settings_that_does_not_exist_is_refused_on_each_engine(either: Path) -> None:
    configure(either, STACK_LAYERS="dev,zzz")
    fail(either, 2, "up", saying=("docker-compose.zzz.yml does not exist",))


def test_one_thing_is_told_in_the_singular(either: Path) -> None:
    succeed(either, "up")
    (either / "one.sql").write_text("SELECT 1;")
    for number in ("1 object ", "2 objects "):
        sql(either, f"CREATE TABLE t{number[0]} ()")
        assert number in fail(either, 2, "load", "one.sql")
