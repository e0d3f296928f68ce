"""The layers that `up` was told count for the commands that follow, until it is told others."""

from __future__ import annotations

from pathlib import Path

import pytest

from stack.engines import choose
from stack.ground import layers, settings


@pytest.mark.parametrize("told", ["dev,mine", "dev", ""])
def test_what_up_was_told_counts_until_it_is_told_others(tmp_path: Path, told: str) -> None:
    (tmp_path / "data").mkdir()
    layers.keep(tmp_path, told)
    assert layers.started(tmp_path) == told
    wanted = tuple(filter(None, told.split(",")))
    assert settings.load(tmp_path, {}).layers == choose.choose(tmp_path).settings.layers == wanted
    assert settings.load(tmp_path, {}, afresh=True).layers == ("dev",)
    assert settings.load(tmp_path, {"STACK_LAYERS": "x"}).layers == ("x",)
    assert settings.load(tmp_path, {}, layers="y").layers == ("y",)
    layers.keep(tmp_path, None)
    assert settings.load(tmp_path, {}).layers == ("dev",)


def test_nothing_is_written_when_nothing_was_told(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    layers.keep(tmp_path, None)
    assert not [*(tmp_path / "data").iterdir()]


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"dev", b"--layer dev"])
def test_what_is_no_note_is_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".layers").write_bytes(text)
    assert settings.load(tmp_path, {}).layers == ("dev",)
