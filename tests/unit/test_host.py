"""Machines on which nothing here runs: told in one sentence, before anything is imported that is not there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stack.ground.settings import ROOT


@pytest.mark.parametrize("file", ["tasks.py", "noxfile.py"])
def test_windows_itself_is_refused(file: str) -> None:
    code = f"import runpy, sys; sys.platform = 'win32'; sys.modules['fcntl'] = None; runpy.run_path({file!r})"
    said = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    assert said.returncode == 2
    assert said.stdout == ""
    assert said.stderr.count("\n") == 1
    assert "WSL2, with the checkout in the file system there" in said.stderr


def test_line_ends_are_not_windows_own() -> None:
    assert "* text=auto eol=lf" in (ROOT / ".gitattributes").read_text()
