"""What lies in data/embedded and is not what it seems: nobody else's process is signalled, no word is untrue."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from stack.doctor import run
from stack.engines.embedded.engine import Embedded
from stack.ground.errors import StackError
from stack.ground.run import environment
from stack.verbs import damage as damage_room
from stack.verbs import up as up_room
from stack.verbs import wipe

pytestmark = pytest.mark.slow


def lock_file(engine: Embedded, pid: int) -> None:
    """Write a lock file that names a process."""
    place = engine.home.directory
    (place / "postmaster.pid").write_text(f"{pid}\n{place}\n1\n1\n\n\n\nready\n")


def up(engine: Embedded) -> None:
    up_room.bring_up(engine, 30, pull=False, wait=True)


def type_cure(error: StackError, engine: Embedded) -> None:
    """Type what a message says to type, as far as it is no command of invoke's."""
    for words in error.cure.split("`")[1::2]:
        if words == "invoke doctor --fix":
            run._mend(engine.root, [])
            damage_room.write_lost_text(engine)
        elif words != "invoke up":
            subprocess.run(["sh", "-c", words], check=True)


@pytest.mark.parametrize("words", [("sleep", "60"), ("sh", "-c", "trap '' TERM; sleep 60; :")])
def test_a_process_that_is_no_server_is_not_signalled(engine: Embedded, words: tuple[str, ...]) -> None:
    up(engine)
    engine.stop()
    with subprocess.Popen(words, cwd=engine.home.directory) as shell:
        try:
            (engine.home.directory / "postmaster.pid").write_text(
                f"{shell.pid}\n{engine.home.directory}\n1\n1\n\n\n\nready\n"
            )
            assert engine.services()[0].state == "not started"
            engine.data.append("pg_hba.conf", "# nothing")
            engine.stop()
            time.sleep(0.2)
            assert shell.poll() is None
            up(engine)
            engine.stop()
            assert shell.poll() is None
        finally:
            shell.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process as another user")
def test_a_process_of_somebody_elses_that_has_the_servers_name_is_not_signalled(engine: Embedded) -> None:
    """One whose user is neither the owner of the data nor root cannot be its server."""
    up(engine)
    engine.stop()
    place = Path(tempfile.mkdtemp(prefix="stack-fake-"))
    place.chmod(0o755)
    fake = place / "postgres"
    shutil.copy("/bin/sleep", fake)
    with subprocess.Popen(
        [str(fake), "60"], cwd=engine.home.directory, user=4321, group=4321, extra_groups=[]
    ) as other:
        try:
            (engine.home.directory / "postmaster.pid").write_text(
                f"{other.pid}\n{engine.home.directory}\n1\n1\n\n\n\nready\n"
            )
            engine.stop()
            time.sleep(0.2)
            assert other.poll() is None
        finally:
            other.kill()
            shutil.rmtree(place)


# -- PG_VERSION ---------------------------------------------------------------------------------------------


def with_rows(engine: Embedded) -> None:
    up(engine)
    subprocess.run(
        engine.client("psql", "-qXc", "CREATE TABLE kept AS SELECT 42 AS n").argv, check=True, capture_output=True
    )
    engine.stop()


def has_rows(engine: Embedded) -> None:
    up(engine)
    asked = engine.client("psql", "-XAtc", "SELECT n FROM kept").argv
    assert subprocess.run(asked, check=True, capture_output=True).stdout == b"42\n"


@pytest.mark.parametrize("damage", ["rubbish", "\0\0\0", "seventeen\n", "-1\n"])
def test_rubbish_in_the_version_is_no_other_version_and_the_cure_works(engine: Embedded, damage: str) -> None:
    with_rows(engine)
    (engine.home.directory / "PG_VERSION").write_text(damage)
    with pytest.raises(StackError, match=r"PG_VERSION .*no version") as refused:
        up(engine)
    assert "made by PostgreSQL" not in str(refused.value)
    type_cure(refused.value, engine)
    has_rows(engine)


@pytest.mark.parametrize("damage", [None, "", "rubbish"])
@pytest.mark.parametrize("lost", [["base/1"], ["base/1", "base/4"]])
def test_a_version_is_written_anew_from_whatever_database_tells_it(
    engine: Embedded, damage: str | None, lost: list[str]
) -> None:
    with_rows(engine)
    for place in lost:
        (engine.home.directory / place / "PG_VERSION").unlink()
    version = engine.home.directory / "PG_VERSION"
    version.unlink() if damage is None else version.write_text(damage)
    with pytest.raises(StackError, match="PG_VERSION") as refused:
        up(engine)
    assert "`invoke doctor --fix`" in refused.value.cure
    type_cure(refused.value, engine)
    assert version.read_text() == "17\n"


@pytest.mark.parametrize("damage", [None, "rubbish"])
def test_a_version_that_nothing_tells_is_not_promised(engine: Embedded, damage: str | None) -> None:
    with_rows(engine)
    for place in engine.home.directory.glob("base/*/PG_VERSION"):
        place.unlink()
    version = engine.home.directory / "PG_VERSION"
    version.unlink() if damage is None else version.write_text(damage)
    with pytest.raises(StackError, match="PG_VERSION") as refused:
        up(engine)
    assert "doctor --fix" not in str(refused.value)
    assert "do not delete it" in str(refused.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_mount_in_the_place_of_the_cluster_is_told_and_the_cure_works(engine: Embedded, tmp_path: Path) -> None:
    engine.home.directory.mkdir()
    (tmp_path / "disk").mkdir()
    subprocess.run(["mount", "--bind", str(tmp_path / "disk"), str(engine.home.directory)], check=True)
    with pytest.raises(StackError, match="is a mount point") as refused:
        up(engine)
    subprocess.run(["sh", "-c", refused.value.cure.split("`")[1]], check=True)
    up(engine)


def test_a_service_that_no_engine_has_is_no_reason_to_install_docker(engine: Embedded) -> None:
    with pytest.raises(StackError, match=r"no service 'nothing'\. There is: postgres") as refused:
        engine.logs("nothing")
    assert "Docker" not in str(refused.value)
    with pytest.raises(StackError, match="Install Docker"):
        engine.logs("convex-backend")


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="looks into /proc")
def test_a_single_user_server_is_neither_joined_nor_ended(engine: Embedded) -> None:
    """What the messages themselves advise where no superuser may log in."""
    up(engine)
    engine.stop()
    way = engine.home.way()
    argv = [
        *way.prefix,
        str(engine.home.programs / "postgres"),
        "--single",
        "-D",
        str(engine.home.directory),
        "postgres",
    ]
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, start_new_session=True, env=environment(way.env),
        **way.rights,
    ) as single:  # fmt: skip
        while not (engine.home.directory / "postmaster.pid").exists():
            time.sleep(0.02)
        time.sleep(0.5)
        with pytest.raises(StackError, match=r"--single .* would destroy it") as refused:
            up(engine)
        assert (engine.home.directory / "postmaster.pid").read_text().startswith("-")
        engine.stop()
        with pytest.raises(StackError, match="--single"):
            wipe.losses(engine)
        assert single.poll() is None
        subprocess.run(["sh", "-c", refused.value.cure.split("`")[1]], check=True)
        single.wait(20)
    up(engine)


@pytest.mark.parametrize("text", ["", "\0\0\0\0", "rubbish\n", "9" * 30, "-1\n", "0\n", "1\n"])
def test_a_lock_file_that_names_no_server_keeps_nobody_out(engine: Embedded, text: str) -> None:
    with_rows(engine)
    (engine.home.directory / "postmaster.pid").write_text(text)
    assert engine.services()[0].state == "not started"
    has_rows(engine)


def test_a_pipe_in_place_of_the_names_of_snapshots_is_not_waited_for(engine: Embedded) -> None:
    up(engine)
    engine.stop()
    os.mkfifo(engine.root / "data" / ".embedded-snapshots")
    assert [loss.snapshots for loss in wipe.losses(engine)] == [()]
