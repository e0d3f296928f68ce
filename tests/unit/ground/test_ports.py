"""Who holds a port: seen by the system, or, where that shows it to root alone as macOS does, by lsof."""

import os
import shutil
import socket
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from stack.ground import ports

ME = f"{psutil.Process().name()} (process {os.getpid()})"


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which only root may ask for every connection, and has what psutil says there."""

    def denied(_kind: str) -> NoReturn:
        raise psutil.AccessDenied  # giampaolo/psutil#1219

    monkeypatch.setattr(psutil, "net_connections", denied)


def lsof(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str, code: int = 0) -> None:
    """Put an lsof on PATH that says this; the words are those of its manual page, OUTPUT FOR OTHER PROGRAMS."""
    told = "\n".join(words)
    (folder / "lsof").write_text(f"#!/bin/sh\ncat <<'EOF'\n{told}\nEOF\nexit {code}\n")
    (folder / "lsof").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.skipif(not shutil.which("lsof"), reason="there is no lsof here")
@pytest.mark.usefixtures("mac")
@pytest.mark.parametrize(("bound", "asked"), [("127.0.0.1", "127.0.0.1"), ("", "127.0.0.1"), ("", "0.0.0.0")])
def test_a_real_lsof_names_who_listens(bound: str, asked: str) -> None:
    with socket.create_server((bound, 0)) as taken:
        port = taken.getsockname()[1]
        assert ports.holder(port, asked) == ME
        assert ports.why_not_free("127.0.0.1", port) == f"Port {port} is taken by {ME}."
    assert ports.holder(port, asked) == ports.ANOTHER


@pytest.mark.usefixtures("mac")
@pytest.mark.parametrize(
    ("words", "asked", "names"),
    [
        ((f"p{os.getpid()}", "f7", "n127.0.0.1:5433"), "127.0.0.1", True),
        ((f"p{os.getpid()}", "n*:5433"), "127.0.0.1", True),
        ((f"p{os.getpid()}", "f7", "n127.0.0.1:5433", "f8", "n[::1]:5433"), "::1", True),
        (("p1", "f7", "n*:5433", f"p{os.getpid()}", "f9", "n[::1]:5433"), "::1", True),  # who is asked for goes first
        (("p1", "f9", "n[::1]:5433", f"p{os.getpid()}", "f7", "n127.0.0.1:5433"), "127.0.0.1", True),
        (("p1", "f9", "n[::1]:5433", f"p{os.getpid()}", "f7", "n127.0.0.1:5433"), "0.0.0.0", False),
        ((f"p{os.getpid()}", "f7", "n127.0.0.2:5433"), "127.0.0.1", False),
        (("p999999999", "f7", "n127.0.0.1:5433"), "127.0.0.1", False),  # it has just ended
        ((), "127.0.0.1", False),  # another user's
    ],
)
def test_lsof_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], asked: str, names: bool
) -> None:
    lsof(tmp_path, monkeypatch, *words, code=0 if words else 1)
    assert (ports.holder(5433, asked) == ME) == names


@pytest.mark.usefixtures("mac")
def test_nobody_is_named_where_nobody_can_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ports.holder(5433, "127.0.0.1") == "another program on this machine"
