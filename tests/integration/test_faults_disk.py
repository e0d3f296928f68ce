"""Disks and directories that are not as they should be: full, read-only, a link, a mount point, somebody else's."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.integration.checkout import configure, containers, fail, foreign, login, run, sql, succeed, tables, value
from tests.integration.conftest import copy_for

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")


def mount(copy: Path, place: Path, size: str) -> None:
    options = f"size={size},mode=0755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, copy.name, str(place)], check=True)


@pytest.fixture
def small(either: Path) -> Iterator[Path]:
    """A copy whose data/ is a disk of 300 MB, half of which is taken by something else."""
    mount(either, either / "data", "300m")
    try:
        (either / "data/ballast").write_bytes(b"x" * 150_000_000)
        yield either
    finally:
        run(either, "down")
        subprocess.run(["umount", "--lazy", str(either / "data")], check=True)


def fill(copy: Path) -> tuple[int, str]:
    """Write until the server refuses; return the last number that it acknowledged, and what it said."""
    acknowledged = -1
    with login(copy) as connection:
        try:
            for n in range(10_000):
                rows = "SELECT %s, repeat(md5(%s::text || i), 200) FROM generate_series(1, 300) AS i"
                connection.execute(f"INSERT INTO written {rows}", (n, n))
                acknowledged = n
        except psycopg.Error as error:
            return acknowledged, str(error)
    return acknowledged, "nothing"


@as_root
def test_a_disk_that_fills_up_loses_nothing_and_goes_on_once_there_is_room(small: Path) -> None:
    succeed(small, "up")
    sql(small, "CREATE TABLE written (n int, padding text)")
    sql(small, "ALTER TABLE written ALTER padding SET STORAGE EXTERNAL")
    acknowledged, said = fill(small)
    assert acknowledged > 5
    # The server itself may have fallen, over its log; then its own last words and those of `up` are the message.
    result = run(small, "up", "--timeout", "20")
    said += result.stderr + run(small, "logs", "--tail", "50").stdout
    assert "No space left on device" in said
    assert result.returncode == 0 or "No space left on device" in result.stderr or "are free on" in result.stderr
    (small / "data/ballast").unlink()
    succeed(small, "up")
    found = sql(small, "SELECT DISTINCT n FROM written ORDER BY n")
    assert found in (list(range(acknowledged + 1)), list(range(acknowledged + 2)))  # one may lack its answer alone
    assert sql(small, "SELECT count(*) FROM written") == [300 * len(found)]


@pytest.mark.alone
def test_a_data_directory_that_is_read_only(copy: Path) -> None:
    succeed(copy, "up")
    sql(copy, "CREATE TABLE kept ()")
    (copy / "docker-compose.ro.yml").write_text(
        "services: {postgres: {volumes: ['./data/pg:/var/lib/postgresql/data:ro']}}"
    )
    before = value(copy, "STACK_LAYERS")
    configure(copy, STACK_LAYERS=f"{before},ro")
    fail(copy, 1, "up", saying=("postgres", "Read-only file system", "`invoke logs postgres`"), within=30)
    configure(copy, STACK_LAYERS=before)
    succeed(copy, "up")
    assert tables(copy) == ["kept"]


def leaf(copy: Path) -> Path:
    return copy / "data" / {"docker": "pg"}.get(value(copy, "STACK_ENGINE"), value(copy, "STACK_ENGINE"))


@pytest.mark.anew
def test_a_link_in_place_of_the_data_is_neither_filled_nor_followed(either: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").write_text("alive")
    leaf(either).symlink_to(outside)
    fail(either, 2, "up", saying=(str(leaf(either)), "symbolic link", "Nothing was started"), within=30)
    fail(either, 2, "reset-data", "--yes", saying=(str(leaf(either)), "symbolic link"))
    assert leaf(either).is_symlink()
    assert (outside / "canary").read_text() == "alive"
    assert [path.name for path in outside.iterdir()] == ["canary"]


@pytest.mark.anew
def test_a_file_in_place_of_the_data_is_left_alone(either: Path) -> None:
    leaf(either).write_text("somebody's")
    fail(either, 1, "up", saying=(str(leaf(either)),), within=30)
    fail(either, 2, "reset-data", "--yes", saying=(str(leaf(either)), "not a directory"))
    assert leaf(either).read_text() == "somebody's"


@as_root
@pytest.mark.anew
def test_a_mount_point_in_place_of_the_data_is_not_emptied(either: Path) -> None:
    leaf(either).mkdir()
    mount(either, leaf(either), "1m")
    try:
        (leaf(either) / "canary").write_text("alive")
        fail(either, 2, "reset-data", "--yes", saying=(str(leaf(either)), "mount point"))
        assert (leaf(either) / "canary").read_text() == "alive"
    finally:
        subprocess.run(["umount", str(leaf(either))], check=True)


@pytest.mark.alone
def test_data_that_a_foreign_container_mounts_is_not_started_on(copy: Path) -> None:
    (copy / "data/pg").mkdir()
    with foreign("--volume", f"{copy}/data/pg:/x") as name:
        fail(copy, 2, "up", saying=(f"{copy}/data/pg", name, f"docker stop {name}", "Nothing was started"))
        assert containers(copy) == {}


@as_root
def test_data_of_another_major_version_is_kept_as_it_is(either: Path) -> None:
    succeed(either, "up")
    sql(either, "CREATE TABLE kept ()")
    succeed(either, "down")
    (leaf(either) / "PG_VERSION").write_text("16\n")
    fail(either, 1, "up", saying=("16", "17"), within=30)
    (leaf(either) / "PG_VERSION").write_text("17\n")
    succeed(either, "up")
    assert tables(either) == ["kept"]


def test_the_embedded_engine_lives_under_any_path(template: Path, tmp_path: Path) -> None:
    with copy_for("embedded", template, tmp_path / 'it\'s "my" $HOME, ${x} größe 日本', anew=True) as copy:
        try:
            succeed(copy, "up")
            sql(copy, "CREATE TABLE kept ()")
            assert "kept" in succeed(copy, "psql", "-c", "\\d")
            succeed(copy, "reset-data", "--yes")
            assert {path.name for path in (copy / "data").iterdir()} == {".gitkeep", ".lock"}
        finally:
            run(copy, "down")


@as_root
def test_what_is_kept_for_the_next_fresh_goes_before_a_snapshot_is_refused(either: Path) -> None:
    mount(either, either / "data", "1600m")
    try:
        for file in (either / "seed").glob("*.sql"):
            file.unlink()
        for name in ("010", "020"):
            (either / "seed" / f"{name}.sql").write_text(f"CREATE TABLE of_{name} ();")
        succeed(either, "up")
        succeed(either, "fresh")
        assert "for the next fresh" in succeed(either, "snapshots")
        for _ in range(4):  # so many files of the server's log are there for what follows, and take no more room
            sql(either, "SELECT pg_logical_emit_message(true, 'a', 'b'), pg_switch_wal()")
        sql(either, "CHECKPOINT")
        with (either / "data/ballast").open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, shutil.disk_usage(either / "data").free - 104_000_000)

        succeed(either, "snapshot", "mine")
        assert "for the next fresh" not in succeed(either, "snapshots")
        sql(either, "DROP TABLE of_010")
        (either / "seed" / "020.sql").write_text("CREATE TABLE other ();")
        assert "the disk is short of room" in run(either, "fresh", "--yes").stderr
        assert tables(either) == ["of_010", "other"]
        succeed(either, "restore", "mine")
        assert tables(either) == ["of_010", "of_020"]
    finally:
        run(either, "down")
        subprocess.run(["umount", "--lazy", str(either / "data")], check=True)
