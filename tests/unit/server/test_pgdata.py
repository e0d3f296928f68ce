"""What the names and sizes of a cluster's files tell."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from stack.server import pgdata
from stack.server.pgdata import Contents


@pytest.mark.parametrize(
    ("path", "files", "complete"),
    [
        ("base/5/1259", 0, False),
        ("base/5/16384", 1, False),
        ("base/5/16384_fsm", 1, False),
        ("base/5/16384.1", 1, False),
        ("base/5/t3_16400", 1, False),
        ("base/16384/1259", 0, True),
        ("base/16384/2613", 1, True),  # large objects
        ("base/1/pg_filenode.map", 0, False),
        ("base/pgsql_tmp/pgsql_tmp1.0", 0, False),
        ("global/16500", 0, False),  # a shared catalog that was rewritten: no table of anybody's
        ("pg_tblspc/16386", 1, False),  # a link to tables elsewhere
        ("pg_wal/000000010000000000000001", 0, False),
        ("precious", 0, False),
    ],
)
def test_what_may_be_the_users(path: str, files: int, complete: bool) -> None:
    assert pgdata.counted([(path, 8192)]) == Contents(8192, files, files * 8192, complete)


def test_no_large_object_is_nothing_of_the_users() -> None:
    assert not pgdata.counted([("base/5/2613", 0)]).files


def test_nobody_is_told_to_delete_what_may_hold_tables(tmp_path: Path) -> None:
    cluster = tmp_path / "it's" / "pg"
    cluster.mkdir(parents=True)
    said = pgdata.start_over(cluster, Contents(50_000_000, 3, 9_000_000))
    assert "holds 50 MB, with 3 files (9.0 MB) that may be tables of yours: do not delete it" in said
    assert "reset" not in said
    assert "reset" not in pgdata.start_over(cluster, None)
    said = pgdata.start_over(cluster, Contents(39_000_000))
    assert "holds 39 MB and no table. To keep it as a copy" in said
    assert "`invoke reset-data --service pg`" in said


def test_what_is_kept_never_goes_into_what_was_kept_before(tmp_path: Path) -> None:
    cluster = tmp_path / "it's" / "pg"
    for kept in ("pg-kept", "pg-kept-2"):
        cluster.mkdir(parents=True)
        (cluster / "file").touch()
        subprocess.run(shlex.split(pgdata.keep(cluster).split("`")[3]), check=True)
        assert (cluster.with_name(kept) / "file").exists()
        assert not cluster.exists()
