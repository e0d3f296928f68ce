"""Machines on which nothing here runs: told in one sentence, before anything is imported that is not there."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stack.ground.settings import ROOT


@pytest.mark.parametrize("file", ["tasks.py", "noxfile.py"])
def test_windows_itself_is_refused(file: str) -> None:
    code = f"import runpy, sys; sys.platform = 'win32'; sys.modules['fcntl'] = None; runpy.run_path({file!r})"
    _refused([sys.executable, "-c", code], "WSL2, with the checkout in the file system there")


@pytest.mark.parametrize("file", ["tasks.py", "noxfile.py"])
def test_an_older_python_is_refused(file: str) -> None:
    """As the stock Python of macOS is; what runs before that has to be a language that it knows."""
    ast.parse((ROOT / file).read_text(), feature_version=(3, 9))
    code = f"import runpy, sys; sys.version_info = (3, 9, 6); sys.version = '3.9.6 (x)'; runpy.run_path({file!r})"
    _refused([sys.executable, "-c", code], "Python 3.10 or newer and this is 3.9.6")


@pytest.mark.parametrize("file", ["tasks.py", "noxfile.py"])
@pytest.mark.parametrize("version", ["3.8", "3.9"])
def test_a_real_older_python_is_refused(file: str, version: str) -> None:
    """It needs neither invoke nor nox for that."""
    here = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    working = [str(each) for each in here if each and _tells(str(each), version)]
    if not working:
        pytest.skip(f"no Python {version} is here")
    _refused([working[0], file], f"Python 3.10 or newer and this is {version}.")


LACKING = {
    "another Python": ({"PSYCOPG_IMPL": "c"}, "pass", "couldn't import requested psycopg 'c'"),
    "an older list": ({}, "sys.modules['psycopg'] = None", "import of psycopg halted"),
}


@pytest.mark.parametrize("case", LACKING)
def test_a_package_that_is_not_there_is_said_with_what_makes_the_environment_anew(case: str) -> None:
    """As after an upgrade of Python, or of the checkout."""
    settings, before, why = LACKING[case]
    at = {"STACK_ENGINE": "external", "DATABASE_URL": "postgresql://me@127.0.0.1:1/app"}
    code = f"import sys; {before}; from invoke.main import program; program.run(['invoke', 'wait-healthy'])"
    said = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | at | settings,
    )
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (1, "", 1), said.stderr
    assert why in said.stderr
    readme = (ROOT / "README.md").read_text().split("```sh\n")[1].split(" && invoke up\n")[0]
    assert f"`{readme.replace('-m venv', '-m venv --clear')}`" in said.stderr


def _tells(python: str, version: str) -> bool:
    told = subprocess.run([python, "--version"], check=False, capture_output=True, text=True)
    return told.stdout.startswith(f"Python {version}.")


def _refused(argv: list[str], saying: str) -> None:
    said = subprocess.run(argv, check=False, capture_output=True, text=True, cwd=ROOT)
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.count("\n") == 1
    assert saying in said.stderr


def test_line_ends_are_not_windows_own() -> None:
    assert "* text=auto eol=lf" in (ROOT / ".gitattributes").read_text()
