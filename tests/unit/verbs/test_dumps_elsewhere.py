"""Dumps by the programs of other machines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.engines.embedded.engine import Embedded
from stack.ground.errors import Refused
from stack.verbs import dump, load, up
from tests.unit.conftest import embedded

# pg_dump.c of a PostgreSQL that was built without it, as PyPI's wheel for macOS is.
WITHOUT_ZSTD = """#!/bin/sh
case "$*" in *=zstd*)
    echo "pg_dump: error: this build does not support compression with ZSTD" >&2
    exit 1
esac
exec {pg_dump} "$@"
"""


@pytest.fixture
def without_zstd(programs: Path, tmp_path: Path) -> Iterator[Embedded]:
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in programs.iterdir():
        if program.name != "pg_dump":
            (folder / program.name).symlink_to(program)
    (folder / "pg_dump").write_text(WITHOUT_ZSTD.format(pg_dump=programs / "pg_dump"))
    (folder / "pg_dump").chmod(0o755)
    for place in (tmp_path, *tmp_path.parents[:2]):
        place.chmod(0o755)
    root = tmp_path / "root"
    root.mkdir()
    with embedded(folder, root) as made:
        up.bring_up(made, 30, pull=False, wait=True)
        yield made


def test_a_pg_dump_without_zstd_writes_gzip(
    without_zstd: Embedded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my.dump"
    dump.dump(without_zstd, str(file))
    assert "built without zstd, so this archive is compressed with gzip" in capsys.readouterr().err
    load.load(without_zstd, str(file), clean=True, yes=True)
    with pytest.raises(Refused, match=r"built without zstd.*\.sql\.gz"):
        dump.dump(without_zstd, str(tmp_path / "my.sql.zst"))
    assert not (tmp_path / "my.sql.zst").exists()
    dump.dump(without_zstd, str(tmp_path / "my.sql.gz"))


def test_a_server_needs_no_locale_of_its_users(engine: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Mac it would end where the shell has none, or one that is not there."""
    monkeypatch.delenv("LANG", raising=False)
    monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")
    up.bring_up(engine, 30, pull=False, wait=True)
    pid = engine.postmaster.running().pid
    assert b"LC_ALL=C" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
