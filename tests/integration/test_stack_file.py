"""One file with both stores: written at one moment, read on any engine, all or nothing."""

from __future__ import annotations

import io
import json
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from stack.sql import stackfile
from stack.sql.sources import opened
from tests.integration.checkout import (
    INVOKE,
    STAND_INS,
    containers,
    docker,
    environment,
    eventually,
    fail,
    login,
    run,
    sql,
    succeed,
    tables,
    unique,
    value,
)
from tests.integration.conftest import Make, copy_for
from tests.integration.terminal import Terminal
from tests.integration.test_both import Writer, both_raise, convex, numbers, postgres

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.usefixtures("counted")

KILLS = 6
LOAD = ("load", "all.stack", "--clean", "--yes")


@pytest.fixture
def both(started: Path) -> Path:
    """A stack with the number 1 in both stores, and a file of that."""
    sql(started, "CREATE TABLE counter AS SELECT 0 AS n")
    both_raise(started)
    succeed(started, "dump", "all.stack")
    return started


@pytest.fixture
def embedded(template: Path, tmp_path: Path) -> Iterator[Path]:
    """A stack without Convex."""
    with copy_for("embedded", template, tmp_path / unique()) as made:
        succeed(made, "up")
        yield made
        run(made, "down")


def left(copy: Path) -> list[str]:
    """Return what a dead command has left in data/."""
    return [path.name for pattern in (".new-*", ".wiped-*", ".restoring-*") for path in (copy / "data").glob(pattern)]


def rewritten(copy: Path, change: Callable[[bytearray], object]) -> None:
    """Change the file in place."""
    content = bytearray((copy / "all.stack").read_bytes())
    change(content)
    (copy / "all.stack").write_bytes(content)


def at(content: bytearray, name: str) -> int:
    """Return where a part begins, behind its header."""
    return content.index(name.encode() + b"\0") + 512


def test_a_file_of_both_brings_both_back(both: Path) -> None:
    both_raise(both)
    assert "The database is not empty: 1 object" in fail(both, 2, "load", "all.stack")
    sql(both, "DROP TABLE counter")
    assert "Convex has its data in " in fail(both, 2, "load", "all.stack", saying=("Nothing was loaded. Add --clean",))
    assert convex(both) == 2
    told = run(both, *LOAD)
    assert told.returncode == 0, told.stderr
    assert "Loaded all.stack, the database and Convex. `invoke undo` takes that back." in told.stderr
    assert numbers(both) == (1, 1)
    assert "convex_poc and Convex as they were before `invoke load --clean all.stack`" in run(both, "snapshots").stderr
    both_raise(both)
    succeed(both, *LOAD)  # in the place of a database that is not empty
    assert numbers(both) == (1, 1)
    succeed(both, "undo")
    assert numbers(both) == (2, 2)
    succeed(both, "undo")
    assert numbers(both) == (1, 1)


def test_reset_data_offers_a_file_of_both(both: Path) -> None:
    terminal = Terminal(both, "reset-data")
    terminal.expect("(d: dump both first) [y/N]")
    terminal.type("d\n")
    terminal.expect("the database and Convex")
    terminal.expect("[y/N]")
    terminal.type("y\n")
    assert terminal.wait() == 0
    terminal.close()
    succeed(both, "up")
    assert tables(both) == []
    (file,) = (both / "backups").iterdir()
    succeed(both, "load", str(file), "--clean", "--yes")
    assert numbers(both) == (1, 1)


def test_it_brings_both_back_after_all_was_deleted_also_compressed_and_through_a_pipe(both: Path) -> None:
    succeed(both, "reset-data", "--yes")
    succeed(both, "up")
    told = subprocess.run(
        ["sh", "-c", 'gzip -c all.stack | "$@"', "sh", *INVOKE, "load", "-", "--clean", "--yes"],
        cwd=both, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "Admin keys that were made before no longer work." in told.stderr
    assert numbers(both) == (1, 1)
    assert left(both) == []


def test_common_tools_open_it(both: Path) -> None:
    told = subprocess.run(
        [*INVOKE, "dump", "--all"], cwd=both, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, check=True,
    )  # fmt: skip
    assert "the database and Convex (" in told.stderr
    assert "which stood still for 0." in told.stderr
    assert " brings both back." in told.stderr
    (made,) = (both / "backups").glob("*.stack")
    assert made.stat().st_mode & 0o777 == 0o600
    listed = subprocess.run(["tar", "tf", made], check=True, capture_output=True, text=True).stdout.split()
    assert listed == ["manifest.json", "database.dump", "convex.tar.zst"]
    with tarfile.open(made) as tar:
        parts = {name: tar.extractfile(name).read() for name in listed}  # type: ignore[union-attr]
    manifest = json.loads(parts["manifest.json"])
    assert manifest["database"] == "convex_poc"
    assert manifest["postgres"].startswith("17.")
    assert manifest["convex"]["image"] == STAND_INS["CONVEX_BACKEND_IMAGE"]
    assert manifest["convex"]["instance"] == "convex-self-hosted"
    assert manifest["parts"]["database.dump"]["size"] == len(parts["database.dump"])
    server = containers(both)["postgres"]
    read = subprocess.run(
        ["docker", "exec", "-i", server, "pg_restore", "-l"], input=parts["database.dump"], check=True,
        capture_output=True,
    )  # fmt: skip
    assert b"TABLE DATA public counter" in read.stdout
    with tarfile.open(fileobj=io.BytesIO(zstd.decompress(parts["convex.tar.zst"]))) as tar:
        assert {"db.sqlite3", "credentials/instance_name"} <= set(tar.getnames())
    with (both / "through.stack").open("wb") as out:
        subprocess.run([*INVOKE, "dump", "--all"], cwd=both, env=environment(), stdout=out, check=True)
    assert subprocess.run(["tar", "tf", both / "through.stack"], check=True, capture_output=True).stdout
    assert "the name of another kind" in fail(both, 2, "dump", "x.sql", "--all", saying=("`invoke dump x.stack`",))
    eventually(lambda: left(both) == [])


def test_both_are_of_one_moment_and_nobody_is_sent_away(both: Path) -> None:
    writer = Writer(both)
    session = login(both)
    writer.start()
    try:
        for number in range(3):
            before = writer.raised
            eventually(lambda: writer.raised > before + 5)  # noqa: B023
            succeed(both, "dump", f"{number}.stack")
    finally:
        writer.over.set()
        writer.join(30)
    assert session.execute("SELECT 1").fetchone() == (1,)
    session.close()
    for number in range(3):
        succeed(both, "load", f"{number}.stack", "--clean", "--yes")
        ours, its = numbers(both)
        assert ours <= its <= ours + 1  # one step may be under way: Convex has it and the database was not told yet
        assert ours > 5 * number


def test_convex_goes_on_while_the_database_is_still_dumped(both: Path) -> None:
    with login(both) as session:
        session.execute("BEGIN")
        session.execute("LOCK TABLE counter")  # which pg_dump waits for
        dumping = subprocess.Popen([*INVOKE, "dump", "all.stack"], cwd=both, env=environment())
        waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'LOCK TABLE%'"
        eventually(lambda: sql(both, waits))
        assert convex(both, raised=True) == 2
        session.execute("UPDATE counter SET n = 2")
        session.execute("COMMIT")
    assert dumping.wait(60) == 0
    assert numbers(both) == (2, 2)
    succeed(both, *LOAD)
    assert numbers(both) == (1, 1)  # as both were when the dump began


def test_without_convex_its_part_is_left_out(both: Path, embedded: Path) -> None:
    shutil.copy(both / "all.stack", embedded)
    told = run(embedded, "load", "all.stack")
    assert told.returncode == 0, told.stderr
    assert "The Convex in all.stack is left out, and the database alone is loaded: there is no Convex" in told.stderr
    assert postgres(embedded) == 1
    sql(embedded, "UPDATE counter SET n = 7")
    told = run(embedded, "dump", "seven.stack")
    assert "The file has the database alone: there is no Convex here." in told.stderr
    assert "Convex (" not in told.stderr
    shutil.copy(embedded / "seven.stack", both)
    told = run(both, "load", "seven.stack", "--clean", "--yes")
    assert told.returncode == 0, told.stderr
    assert "seven.stack has the database alone: Convex stays as it is." in told.stderr
    assert numbers(both) == (7, 1)


def test_the_external_engine_has_the_database_alone(both: Path) -> None:
    url = f"postgresql://postgres:postgres@127.0.0.1:{value(both, 'POSTGRES_PORT')}/convex_poc"
    outside = {"STACK_ENGINE": "external", "DATABASE_URL": url}
    told = run(both, "dump", "outside.stack", env=outside)
    assert told.returncode == 0, told.stderr
    assert "The file has the database alone" in told.stderr
    sql(both, "DROP TABLE counter")
    assert convex(both, raised=True) == 2
    told = run(both, "load", "all.stack", env=outside)
    assert told.returncode == 0, told.stderr
    assert "The Convex in all.stack is left out" in told.stderr
    assert numbers(both) == (1, 2)


def test_convex_in_a_volume_is_neither_written_nor_replaced(both: Path, make: Make) -> None:
    copy = make(STACK_LAYERS="dev,volumes")
    succeed(copy, "up")
    shutil.copy(both / "all.stack", copy)
    told = run(copy, "load", "all.stack")
    assert told.returncode == 0, told.stderr
    assert "is left out, and the database alone is loaded: Convex keeps its state in Docker's volume" in told.stderr
    told = run(copy, "dump", "volume.stack")
    assert "the file is of the database alone." in told.stderr
    assert (
        subprocess.run(["tar", "tf", copy / "volume.stack"], check=True, capture_output=True).stdout.count(b"\n") == 2
    )
    succeed(copy, "reset-data", "--yes")


def damaged(content: bytearray) -> None:
    content[at(content, "convex.tar.zst") + 9] ^= 1


def cut(content: bytearray) -> None:
    del content[-1500:]


def of_the_future(content: bytearray) -> None:
    place = content.index(b'"stack_file": 1')
    content[place : place + 15] = b'"stack_file": 2'


def without_convex(content: bytearray) -> None:
    begin = at(content, "convex.tar.zst") - 512
    content[begin:] = bytes(1024)


DAMAGES: list[tuple[Callable[[bytearray], object], int, str]] = [
    (damaged, 1, "convex.tar.zst has not the checksum that its manifest.json tells"),
    (cut, 1, "all.stack is cut off or damaged"),
    (of_the_future, 2, "all.stack is a stack file of the format 2, and this version of the stack reads format 1"),
    (without_convex, 1, "convex.tar.zst, of which its manifest.json tells, is missing"),
]


def test_what_is_damaged_or_leads_elsewhere_changes_nothing(both: Path) -> None:
    whole = (both / "all.stack").read_bytes()
    both_raise(both)
    for change, code, words in DAMAGES:
        rewritten(both, change)
        fail(both, code, *LOAD, saying=(words, "Nothing was "))
        (both / "all.stack").write_bytes(whole)
    for name, kind, words in (
        ("../../outside", tarfile.REGTYPE, "which has a name that leads elsewhere"),
        ("/outside", tarfile.REGTYPE, "which has a name that leads elsewhere"),
        ("storage", tarfile.SYMTYPE, "which is a link"),
        ("pipe", tarfile.FIFOTYPE, "which is no plain file"),
    ):
        forged(both, name, kind)
        fail(both, 2, *LOAD, saying=(f"has {name} in it, {words}. Nothing was done.",))
    with tarfile.open(both / "all.stack", "w") as tar:
        tar.add(both / "README.md", "README.md")
    fail(both, 2, *LOAD, saying=("is a tar, and not one of pg_dump", "Nothing was done."))
    assert numbers(both) == (2, 2)
    assert not list(both.parent.rglob("outside"))
    assert "There is nothing to undo" in fail(both, 2, "undo")
    eventually(lambda: left(both) == [])


def forged(copy: Path, name: str, kind: bytes) -> None:
    """Put something of a name and a kind into Convex's part of the file, with a checksum that agrees."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("db.sqlite3"))
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc" * (kind == tarfile.SYMTYPE)
        tar.addfile(member)
    with tarfile.open(copy / "all.stack") as tar:
        manifest, database = (tar.extractfile(each).read() for each in tar.getnames()[:2])  # type: ignore[union-attr]
    facts: dict[str, Any] = json.loads(manifest)
    with (copy / "all.stack").open("w+b") as file:
        writer = stackfile.Writer(file)
        with writer.part("database.dump") as part:
            part.write(database)
        with writer.part("convex.tar.zst") as part:
            part.write(zstd.compress(packed.getvalue()))
        writer.finish({"convex": facts["convex"]})


def test_a_newer_backend_is_refused_and_an_older_one_is_named(both: Path) -> None:
    later = "standin/test-later-still:latest"
    file = f"FROM {STAND_INS['CONVEX_BACKEND_IMAGE']}\nLABEL later=still\n"
    subprocess.run(["docker", "build", "-q", "-t", later, "-"], input=file.encode(), check=True, capture_output=True)
    newer = {"CONVEX_BACKEND_IMAGE": later}
    try:
        succeed(both, "up", env=newer)
        told = run(both, *LOAD, env=newer)
        assert told.returncode == 0, told.stderr
        assert "It was written with an older Convex backend" in told.stderr
        both_raise(both)
        succeed(both, "dump", "new.stack", env=newer)
        succeed(both, "up")
        both_raise(both)
        refused = fail(both, 2, "load", "new.stack", "--clean", "--yes", saying=("migrations go forward only",))
        assert f"new.stack was written with the Convex backend {later}, which is newer than the one here" in refused
        assert numbers(both) == (3, 3)
        cure = refused.split("`")[-2]
        assert cure == "tar -xOf new.stack database.dump | invoke load -"
        script = cure.replace("invoke load -", '"$@" load - --clean --yes')
        subprocess.run(["sh", "-c", script, "sh", *INVOKE], cwd=both, env=environment(), check=True)
        assert numbers(both) == (2, 3)
        succeed(both, "up", env=newer)
        succeed(both, "load", "new.stack", "--clean", "--yes", env=newer)
        assert numbers(both) == (2, 2)
    finally:
        run(both, "down")
        docker("image", "rm", "--force", later)


def test_another_instance_is_named(both: Path, make: Make) -> None:
    copy = make(CONVEX_INSTANCE_NAME="elsewhere")
    succeed(copy, "up")
    shutil.copy(both / "all.stack", copy)
    told = run(copy, *LOAD)
    assert told.returncode == 0, told.stderr
    assert "It comes from the Convex instance convex-self-hosted, and this one is elsewhere" in told.stderr
    assert numbers(copy) == (1, 1)
    assert succeed(copy, "admin-key").startswith("elsewhere|")


def test_of_a_database_with_a_replication_slot_undo_brings_convex_back_alone(both: Path) -> None:
    both_raise(both)
    sql(both, "ALTER SYSTEM SET wal_level = logical")
    succeed(both, "restart", "postgres")
    sql(both, "SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
    told = run(both, *LOAD)
    assert told.returncode == 0, told.stderr
    assert "Is lost with the replaced database: the replication slot s" in told.stderr
    assert "`invoke undo` takes back what became of Convex, and not the database." in told.stderr
    assert numbers(both) == (1, 1)
    succeed(both, "undo")
    assert numbers(both) == (1, 2)


def test_a_dump_that_is_killed_leaves_a_whole_file_and_convex_goes_on(both: Path) -> None:
    chance = random.Random(3)  # noqa: S311
    for _ in range(5):
        killed(both, chance.uniform(0.3, 1.8), signal.SIGKILL, "dump", "all.stack")
        with opened(str(both / "all.stack")) as source:  # whose checksums it reads
            assert source.stack_file
            assert source.stack_file.convex
        eventually(lambda: answers(both))
    succeed(both, "up")
    assert not list(both.glob(".new-file-*"))
    both_raise(both)
    succeed(both, *LOAD)
    assert numbers(both) == (1, 1)
    eventually(lambda: left(both) == [])


def answers(copy: Path) -> bool:
    with suppress(OSError):
        return convex(copy) == 1
    return False


def killed(copy: Path, delay: float, number: int, *words: str, server: str = "") -> None:
    """Type a command, and send it a signal after a while, once the server is killed, if that is given."""
    command = subprocess.Popen(
        [*INVOKE, *words], cwd=copy, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    with suppress(subprocess.TimeoutExpired):
        command.wait(delay)
    if server:
        docker("kill", "--signal", "KILL", server)
    with suppress(ProcessLookupError):
        command.send_signal(number)
    command.wait(60)


@pytest.mark.parametrize("empty", [False, True], ids=["full", "empty"])
def test_a_load_that_is_killed_leaves_the_old_pair_or_the_new(both: Path, empty: bool) -> None:
    kill_loads(both, KILLS, random.Random(7), empty=empty)  # noqa: S311


def kill_loads(both: Path, kills: int, chance: random.Random, *, empty: bool) -> None:
    """Kill loads at random moments; what the next command leaves is a pair, of before it or of the file.

    An `empty` database is copied first, and taken out of its place before the file is read.
    """
    ends = []
    begun = time.monotonic()
    succeed(both, *LOAD)
    took = time.monotonic() - begun
    for turn in range(kills):
        old = convex(both, raised=True)
        sql(both, "DROP TABLE counter" if empty else f"UPDATE counter SET n = {old}")
        signals = signal.SIGKILL, signal.SIGKILL, signal.SIGINT
        server = containers(both)["postgres"] if chance.random() < 0.2 else ""
        delay = chance.uniform(0.2, 1) * took  # the exchange comes in the second half of it
        killed(both, delay, chance.choice(signals), *LOAD, server=server)
        # Docker lets go of a port a moment after it has stopped a container, which it may still be about.
        eventually(lambda: run(both, "up").returncode == 0, 60)
        there = postgres(both) if tables(both) else None
        pair, its = (there, convex(both)), ("new" if there == 1 else "old")
        assert pair == ((1, 1) if its == "new" else (None if empty else old, old)), turn
        ends.append((f"{delay / took:.2f}", bool(server), its))
        assert left(both) == []
        if its == "old" and empty:
            sql(both, "CREATE TABLE counter AS SELECT 1 AS n")
    succeed(both, *LOAD)
    assert numbers(both) == (1, 1)
    print(ends)
