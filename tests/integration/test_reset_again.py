"""A second `invoke reset` begins with what the first has kept, as long as the same would be made; on both engines."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.checkout import (
    INVOKE,
    configure,
    docker,
    environment,
    eventually,
    fail,
    project,
    run,
    sql,
    succeed,
    tables,
    value,
)

SEED = """CREATE ROLE seeded LOGIN PASSWORD 'seeded';
CREATE TABLE rows (id serial, n int);
INSERT INTO rows (n) SELECT generate_series(1, 1000);
GRANT SELECT ON rows TO seeded;
"""
AGAIN = "It has what the last reset has kept"
ROLES = "SELECT rolname || coalesce(rolpassword, '') FROM pg_authid ORDER BY 1"

pytestmark = pytest.mark.anew


def kept(copy: Path) -> list[Path]:
    return sorted((copy / "data").glob(".after-reset*"))


def ready(copy: Path) -> bool:
    """Return whether the background has prepared all that the next reset takes: the mark, a copy, and one more."""
    return len(kept(copy)) == 3


def reset(copy: Path) -> bool:
    """Type it, and return whether it began with what was kept."""
    told = run(copy, "reset", "--yes")
    assert told.returncode == 0, told.stderr
    assert (AGAIN in told.stderr) is not ("seed/010.sql" in told.stderr), told.stderr
    return AGAIN in told.stderr


@pytest.fixture
def seeded(either: Path) -> Path:
    """A stack that was reset once."""
    for file in (either / "seed").glob("*.sql"):
        file.unlink()
    (either / "seed").mkdir(exist_ok=True)
    (either / "seed" / "010.sql").write_text(SEED)
    assert not reset(either)
    eventually(lambda: ready(either), 60)
    return either


def test_it_gives_the_same_and_nothing_else(seeded: Path) -> None:
    before = sql(seeded, ROLES)
    sql(seeded, "INSERT INTO rows (n) VALUES (-1)")
    for statement in ("CREATE ROLE mine", "CREATE DATABASE mine", "ALTER SYSTEM SET work_mem = '7MB'"):
        sql(seeded, statement)
    assert reset(seeded)
    assert sql(seeded, "SELECT n FROM rows ORDER BY id") == list(range(1, 1001))
    assert sql(seeded, "INSERT INTO rows (n) VALUES (0) RETURNING id") == [1001]
    assert sql(seeded, ROLES) == before
    assert sql(seeded, "SELECT datname FROM pg_database WHERE datname = 'mine'") == []
    assert sql(seeded, "SHOW work_mem") == ["4MB"]
    assert sql(seeded, "SELECT reltuples FROM pg_class WHERE relname = 'rows'") == [1000]  # as it will be everywhere
    assert sql(seeded, "SELECT count(*) FROM rows", user="seeded", password="seeded") == [1001]
    assert reset(seeded)  # whether the background was done by then, or not
    assert "before `invoke seed`" in run(seeded, "undo").stderr
    assert tables(seeded) == []


@pytest.mark.parametrize("what", ["seed", "password", "user", "database", "program", "TZ"])
def test_what_would_be_another_is_made_anew(seeded: Path, what: str) -> None:
    configure(seeded, **{"password": {"POSTGRES_PASSWORD": "another"}, "user": {"POSTGRES_USER": "another"},
                         "database": {"POSTGRES_DB": "another"}}.get(what, {}))  # fmt: skip
    program = seeded / "seed" / "020.sh"
    if what == "seed":
        (seeded / "seed" / "010.sql").write_text(f"{SEED}DELETE FROM rows WHERE n > 3;\n")
    if what == "program":  # it does not say what it reads
        program.write_text('#!/bin/sh\npsql "$DATABASE_URL" -c "CREATE TABLE made ()"\n')
        program.chmod(0o755)
    if what == "TZ" and value(seeded, "STACK_ENGINE") == "embedded":  # which initdb writes down
        assert AGAIN not in run(seeded, "reset", "--yes", env={"TZ": "Asia/Tokyo"}).stderr
        assert sql(seeded, "SELECT setting FROM pg_settings WHERE name = 'TimeZone'") == ["Asia/Tokyo"]
        return
    if what == "TZ":  # another image, then files beside the data
        image = f"standin/{project(seeded)}:17"
        docker("tag", value(seeded, "POSTGRES_IMAGE"), image)
        configure(seeded, POSTGRES_IMAGE=image)
        assert not reset(seeded)
        (seeded / "docker-compose.mine.yml").write_text("services: {postgres: {volumes: ['./seed:/other:ro']}}\n")
        configure(seeded, STACK_LAYERS="dev,alone,mine")
    assert not reset(seeded)
    assert sql(seeded, "SELECT count(*) FROM rows") == [3 if what == "seed" else 1000]
    if what in ("program", "TZ"):
        assert not kept(seeded)
        assert not reset(seeded)
    if what == "TZ":
        succeed(seeded, "down")
        docker("rmi", image)


@pytest.mark.parametrize("left", ["PG_VERSION", "base", "global/pg_control", "mark"])
def test_what_is_damaged_is_given_up(seeded: Path, left: str) -> None:
    following = next(path for path in kept(seeded) if path.name.endswith("-next"))
    if left == "mark":
        (seeded / "data" / ".after-reset").write_text("{")
    elif left == "base":
        oid, number = sql(seeded, "SELECT pg_relation_filepath('rows')")[0].split("/")[1:]
        (following / "base" / oid / number).unlink()
    else:
        (following / left).write_bytes(b"")
    assert not reset(seeded)
    assert sql(seeded, "SELECT count(*) FROM rows") == [1000]
    eventually(lambda: ready(seeded), 60)
    assert reset(seeded)


def test_what_others_wrote_meanwhile_is_not_kept(either: Path) -> None:
    (either / "seed").mkdir(exist_ok=True)
    (either / "seed" / "010.sql").write_text(SEED)
    (either / "seed" / "020.sql").write_text("CREATE UNLOGGED TABLE unlogged AS SELECT 1 AS n;\n")
    assert not reset(either)
    assert not kept(either)  # no backup has an unlogged table's rows
    assert not reset(either)
    assert sql(either, "SELECT n FROM unlogged") == [1]


def test_without_a_seed_the_empty_cluster_is_kept(either: Path) -> None:
    for file in (either / "seed").glob("*"):
        file.unlink()
    succeed(either, "reset", "--yes")
    sql(either, "CREATE TABLE mine ()")
    assert AGAIN in run(either, "reset", "--yes").stderr
    assert tables(either) == []


def test_a_seed_that_cannot_be_read_is_told_before_anything_goes(seeded: Path) -> None:
    (seeded / "seed" / "020.sql").symlink_to("nowhere.sql")
    fail(seeded, 2, "reset", "--yes", saying=("020.sql cannot be read", "Nothing was done", "take it out of seed/"))
    assert sql(seeded, "SELECT count(*) FROM rows") == [1000]
    (seeded / "seed" / "020.sql").unlink()  # the cure
    assert reset(seeded)


def test_it_goes_with_the_data(seeded: Path) -> None:
    assert "Nothing was deleted" in run(seeded, "reset-data", "--dry-run").stderr
    assert ready(seeded)
    succeed(seeded, "reset-data", "--yes")
    leaves = {path.name for path in (seeded / "data").iterdir()}
    assert leaves <= {".gitkeep", ".lock", "programs", "convex"}
    assert not reset(seeded)
    succeed(seeded, "retire", "--yes")
    assert not kept(seeded)
    assert not list((seeded / "data").glob(".new-*"))


def killed(copy: Path, *, seconds: float, when: Callable[[], object] | None = None) -> None:
    """Kill a reset after so long, or as soon as something is so."""
    child = subprocess.Popen([*INVOKE, "reset", "--yes"], cwd=copy, env=environment(), stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    deadline = time.monotonic() + seconds
    while child.poll() is None and time.monotonic() < deadline and not (when and when()):
        time.sleep(0.01)
    if child.poll() is None:
        os.kill(child.pid, signal.SIGKILL)
    child.wait()


@pytest.mark.parametrize("share", [0.4, 0.6, 0.8])
def test_killed_at_any_moment_the_next_goes_on(seeded: Path, share: float) -> None:
    begun = time.monotonic()
    assert reset(seeded)
    usual = time.monotonic() - begun
    eventually(lambda: ready(seeded), 60)
    killed(seeded, seconds=usual * share)
    succeed(seeded, "up")
    assert tables(seeded) in ([], ["rows"])
    succeed(seeded, "reset", "--yes")
    assert sql(seeded, "SELECT count(*) FROM rows") == [1000]


def test_killed_while_it_keeps_it_leaves_no_half(seeded: Path) -> None:
    (seeded / "seed" / "010.sql").write_text(f"{SEED}DELETE FROM rows WHERE n > 3;\n")
    copying = seeded / "data"
    killed(seeded, seconds=60, when=lambda: any(copying.glob(".new-kept-*")))
    assert not kept(seeded)
    succeed(seeded, "up")
    eventually(lambda: not list(copying.glob(".new-kept-*")), 60)
    assert not reset(seeded)
    assert sql(seeded, "SELECT count(*) FROM rows") == [3]
