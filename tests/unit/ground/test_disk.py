"""What is there, as far as this user may know."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stack.ground import disk


@contextmanager
def no_superuser() -> Iterator[None]:
    """Be somebody who may not look everywhere."""
    me = os.geteuid()
    os.seteuid(me or 65534)
    try:
        yield
    finally:
        os.seteuid(me)


def test_what_is_gone_is_told_from_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "a link to nothing").symlink_to("nothing")
    for gone in ("nothing", "file/beneath", "a link to nothing"):
        assert disk.is_gone(tmp_path / gone)
        assert not disk.is_seen(tmp_path / gone)
    for there in (".", "file"):
        assert not disk.is_gone(tmp_path / there)
        assert disk.is_seen(tmp_path / there)


def test_what_may_not_be_looked_at_is_not_called_gone(tmp_path: Path) -> None:
    """As another user's checkout in a home directory of theirs."""
    home = tmp_path / "home"
    (home / "checkout").mkdir(parents=True)
    home.chmod(0o000)
    try:
        with no_superuser():
            told = [(disk.is_gone(each), disk.is_seen(each)) for each in (home / "checkout", home / "none")]
    finally:
        home.chmod(0o700)
    assert told == [(False, False), (False, False)]
