"""What a server has put in the place of a file of its own is neither followed by root nor waited for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from stack.engines.embedded import shutdown
from stack.engines.embedded.engine import Embedded
from stack.ground import regular
from stack.ground.errors import StackError
from stack.server import pgdata
from stack.verbs import damage, up
from tests.unit.conftest import embedded

FILES = ("postmaster.pid", "PG_VERSION", "pg_hba.conf", "base/1/PG_VERSION", "global/pg_control")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may read what the server may not")


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """End a test that waits for ever."""

    def late(*_: object) -> None:
        raise AssertionError("it waits for ever")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory that everybody may enter, unlike those of pytest."""
    made = Path(tempfile.mkdtemp(prefix="stack-regular-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def engine(programs: Path, outside: Path) -> Iterator[Embedded]:
    with embedded(programs, outside) as made:
        yield made


def look_everywhere(engine: Embedded) -> None:
    """Ask all that reads in the directory."""
    engine.services()
    engine.data.read(*FILES)
    damage.lost_text(engine)
    engine.last_words("postgres")
    with suppress(StackError):
        engine.inside.identifier("")


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_is_not_waited_for(engine: Embedded, name: str) -> None:
    up.bring_up(engine, 30, pull=False, wait=True)
    engine.stop()
    place = engine.home.directory / name
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    look_everywhere(engine)
    if name != "base/1/PG_VERSION":
        with pytest.raises(StackError):
            up.bring_up(engine, 5, pull=False, wait=True)


def test_a_pipe_in_place_of_the_log_is_named_and_the_cure_works(engine: Embedded) -> None:
    up.bring_up(engine, 30, pull=False, wait=True)
    engine.stop()
    engine.home.log.unlink()
    os.mkfifo(engine.home.log)
    with pytest.raises(StackError, match=r"server\.log") as refused:
        up.bring_up(engine, 10, pull=False, wait=True)
    with pytest.raises(StackError, match=r"server\.log"):
        engine.logs()
    subprocess.run(["sh", "-c", refused.value.cure.split("`")[1]], check=True)
    up.bring_up(engine, 30, pull=False, wait=True)


@as_root
@pytest.mark.parametrize("name", [*FILES, "base", "global", "server.log"])
def test_root_reads_nothing_through_a_link(engine: Embedded, outside: Path, name: str) -> None:
    (outside / "roots").mkdir(mode=0o700)
    secret = outside / "roots" / Path(name).name
    secret.write_text("77")
    for folder in ("base/1", "global"):
        (engine.home.directory / folder).mkdir(parents=True)
        for each in ("PG_VERSION", "pg_control"):
            (engine.home.directory / folder / each).write_text("17")
    (outside / "roots" / "1").mkdir()
    for each in ("1/PG_VERSION", "pg_control"):
        (outside / "roots" / each).write_text("77" * 8)
    place = engine.home.directory / name
    if place.is_dir():
        shutil.rmtree(place)
        secret = outside / "roots"
    place.unlink(missing_ok=True)
    place.symlink_to(secret)
    assert "77" not in str(engine.data.read(*FILES))
    assert "77" not in str(damage.lost_text(engine))
    assert engine.last_words("postgres") == ""
    if name.startswith("global"):
        with pytest.raises(StackError, match="cannot be read"):
            engine.inside.identifier("")
    if name == "server.log":
        with pytest.raises(StackError, match="is a symbolic link"):
            engine.logs()


@pytest.mark.skipif(os.geteuid() == 0, reason="root follows no link of a server's")
def test_who_owns_the_data_may_keep_a_file_elsewhere(engine: Embedded, outside: Path) -> None:
    up.bring_up(engine, 30, pull=False, wait=True)
    rules = engine.home.directory / "pg_hba.conf"
    rules.rename(outside / "rules")
    rules.symlink_to(outside / "rules")
    assert "scram-sha-256" in engine.data.read("pg_hba.conf")["pg_hba.conf"]


def test_of_a_long_log_only_the_end_is_read(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with log.open("wb") as file:
        file.truncate(20_000_000_000)
        file.seek(0, os.SEEK_END)
        file.write(b"\nFATAL:  the last words\n")
    assert shutdown.logged(log).endswith("\nFATAL:  the last words\n")
    assert len(shutdown.logged(log)) <= regular.MOST + 100
    assert shutdown.logged(log, 20_000_000_001) == "FATAL:  the last words\n"


def test_a_text_that_is_huge_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "PG_VERSION").open("wb") as file:
        file.truncate(20_000_000_000)
    assert len(pgdata.read(tmp_path, "PG_VERSION")["PG_VERSION"]) <= regular.MOST
