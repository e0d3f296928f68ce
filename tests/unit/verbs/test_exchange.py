"""The directories of an exchange, from wherever it was left: what is where afterwards, and that no file is gone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from stack.ground.errors import StackError
from stack.verbs import exchange, halves
from tests.fake import FakeBackend, FakeEngine

IDENTIFIER, A, B = "7712", "a" * 32, "b" * 32


class Server:
    """A server of which it is only asked which database has which name."""

    def __init__(self, *, done: bool) -> None:
        self.done = done

    def rows(self, query: str, *_: object) -> list[tuple[Any, ...]]:
        if "system_identifier" in query:
            return [(IDENTIFIER,)]
        return [()] if self.done else []


class Backend(FakeBackend):
    """A backend that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def stop(self) -> bool:
        self.told.append("stop")
        return True

    def start(self) -> None:
        self.told.append("start")


class WithConvex(FakeEngine):
    """An engine with that backend."""

    convex: Backend

    def __init__(self, root: Path) -> None:
        super().__init__(root=root)
        self.convex = Backend()


@pytest.fixture
def engine(tmp_path: Path) -> WithConvex:
    (tmp_path / "data").mkdir()
    return WithConvex(tmp_path)


def keep(engine: WithConvex, **places: str) -> None:
    for name, content in places.items():
        place = {"home": engine.root / "data" / "convex", "source": half(engine, f"spare-{A}"),
                 "target": half(engine, f"undo-{B}")}[name]  # fmt: skip
        place.mkdir()
        (place / "file").write_text(content)


def half(engine: WithConvex, name: str) -> Path:
    return engine.root / "data" / f"{halves.HALF}{IDENTIFIER}-{name}"


def kept(engine: WithConvex) -> dict[str, str]:
    return {
        file.parent.name.removeprefix(f"{halves.HALF}{IDENTIFIER}-"): file.read_text()
        for file in (engine.root / "data").glob("*/file")
    }


def mark(engine: WithConvex, oid: int = 5, identifier: str = IDENTIFIER) -> Path:
    made = engine.root / "data" / f"{exchange.BEGINS}{identifier}-{oid}-spare-{A}-undo-{B}"
    made.mkdir()
    return made


def settle(engine: WithConvex, *, done: bool) -> bool:
    return exchange.settle(engine, Server(done=done))  # type: ignore[arg-type]


@pytest.mark.parametrize("oid", [0, 5])
@pytest.mark.parametrize(
    "left", [{"home": "old", "source": "new"}, {"target": "old", "source": "new"}, {"home": "new", "target": "old"}]
)
def test_an_exchange_that_took_effect_is_finished_from_wherever_it_was_left(
    engine: WithConvex, left: dict[str, str], oid: int
) -> None:
    keep(engine, **left)
    made = mark(engine, oid)
    assert settle(engine, done=True)
    assert kept(engine) == {"convex": "new", f"undo-{B}": "old"}
    assert not made.exists()
    assert engine.convex.told == ["stop", "start"]
    assert not settle(engine, done=True)


@pytest.mark.parametrize("oid", [0, 5])
def test_one_that_did_not_take_effect_is_taken_back(engine: WithConvex, oid: int) -> None:
    keep(engine, home="old", source="new")
    made = mark(engine, oid)
    assert settle(engine, done=False)
    assert kept(engine) == {"convex": "old", f"spare-{A}": "new"}
    assert not made.exists()


def test_what_was_made_anew_meanwhile_is_kept(engine: WithConvex, capsys: pytest.CaptureFixture[str]) -> None:
    keep(engine, home="third", source="new", target="old")
    mark(engine)
    assert settle(engine, done=True)
    there = kept(engine)
    assert (there.pop("convex"), there.pop(f"undo-{B}")) == ("new", "old")
    ((name, content),) = there.items()
    assert content == "third"
    assert f"is kept as {engine.root / 'data' / name}" in capsys.readouterr().err


def test_a_directory_that_is_gone_is_told_and_the_other_stays(engine: WithConvex) -> None:
    keep(engine, home="old")
    made = mark(engine)
    with pytest.raises(StackError, match="is gone") as failed:
        settle(engine, done=True)
    assert "invoke undo" in failed.value.cure
    assert kept(engine) == {"convex": "old"}
    assert not made.exists()


def test_the_mark_of_another_cluster_is_left_alone(engine: WithConvex) -> None:
    keep(engine, home="old", source="new")
    made = mark(engine, identifier="99")
    assert not settle(engine, done=True)
    assert made.exists()
    assert kept(engine) == {"convex": "old", f"spare-{A}": "new"}


def test_what_differs_in_a_file_is_seen(tmp_path: Path) -> None:
    (tmp_path / "one" / "deep").mkdir(parents=True)
    (tmp_path / "one" / "deep" / "file").write_text("x")
    shutil.copytree(tmp_path / "one", tmp_path / "two")  # with the times
    assert halves.same(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two" / "deep" / "file").write_text("y")
    assert not halves.same(tmp_path / "one", tmp_path / "two")
    assert not halves.same(tmp_path / "one", tmp_path / "three")


@pytest.mark.parametrize(
    ("built", "other", "newer"),
    [
        ("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z", True),
        ("2026-01-01T00:00:00.10000001Z", "2026-01-01T00:00:00.1Z", True),
        ("2026-01-01T00:00:00.1Z", "2026-01-01T00:00:00.099999999Z", True),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000Z", False),
        ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", False),
        ("", "2026-01-01T00:00:00Z", False),
        ("yesterday", "2026-01-01T00:00:00Z", False),
    ],
)
def test_which_image_is_newer(built: str, other: str, newer: bool) -> None:
    assert halves.newer(built, other) is newer
