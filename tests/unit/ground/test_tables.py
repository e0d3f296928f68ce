"""Columns: what is there to be copied is never folded."""

from collections.abc import Callable

import pytest

from stack.ground import tables

HEADINGS = ("SERVICE", "HEALTH", "ADDRESS", "VERSION", "DATA")
ADDRESS = "postgresql://postgres:********@127.0.0.1:5433/convex_poc"
ROWS = [("postgres", "healthy", ADDRESS, "17.12", "48 MB"), ("convex-dashboard", "", "http://127.0.0.1:6791", "1", "")]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[int], list[str]]:
    def show(width: int) -> list[str]:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        monkeypatch.setenv("COLUMNS", str(width))
        tables.print_columns(HEADINGS, ROWS, whole=("ADDRESS",), may_go=("DATA", "VERSION"))
        return capsys.readouterr().out.splitlines()

    return show


@pytest.mark.parametrize(("width", "goes"), [(58, 2), (80, 2), (90, 2), (92, 1), (102, 0), (120, 0)])
def test_an_address_is_in_one_piece_at_any_width(shown: Callable[[int], list[str]], width: int, goes: int) -> None:
    lines = shown(width)
    assert any(ADDRESS in line for line in lines)
    assert sum(heading not in lines[0] for heading in ("DATA", "VERSION")) == goes


def test_without_a_terminal_nothing_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_columns(HEADINGS, ROWS, whole=("ADDRESS",), may_go=("DATA", "VERSION"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].split() == ["postgres", "healthy", ADDRESS, "17.12", "48", "MB"]
