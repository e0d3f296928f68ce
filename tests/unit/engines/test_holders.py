"""Who is at work on a directory, by what Docker lists and by what the place is."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stack.engines.docker import holders
from stack.ground import disk
from stack.ground.errors import Refused
from stack.server import processes


@pytest.fixture
def pg(tmp_path: Path) -> Path:
    place = tmp_path / "checkout" / "data" / "pg"
    place.mkdir(parents=True)
    return place


def test_a_directory_is_the_same_under_every_name(pg: Path, tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(tmp_path / "checkout")
    for name in (pg, tmp_path / "other/data/pg", tmp_path / "other/data/../data/pg/base"):
        assert holders.holds(str(name), pg) is (True if name.parent.exists() else None)
    for name in (pg.parent, pg.with_name("pg2"), tmp_path):
        name.mkdir(exist_ok=True)
        assert holders.holds(str(name), pg) is False  # what mounts more than the data has it not as its own


@pytest.mark.parametrize(
    ("printed", "holds"),
    [
        ("/host_mnt{}", True),  # Docker Desktop for Mac
        ("/host_mnt{}/base", True),
        ("/host_mnt{}2", None),
        ("/run/desktop/mnt/host/wsl/docker-desktop-bind-mounts/Ubuntu/0f", None),
        ("/var/lib/postgresql/data", None),  # podman's shim: the path inside
        ("a-named-volume", None),
        ("0f" * 32, False),  # a volume without a name has no place of its own
    ],
)
def test_what_other_machines_print(pg: Path, printed: str, holds: bool | None) -> None:
    assert holders.holds(printed.format(pg), pg) is holds


def test_mounts_with_commas_in_their_names_are_told_apart(tmp_path: Path) -> None:
    one, two = tmp_path / "a,b", tmp_path / "c"
    for place in (one, two):
        place.mkdir()
    assert list(holders.mounts(f"{one},volume,{two},/gone,x")) == [str(one), "volume", str(two), "/gone", "x"]
    assert list(holders.mounts("")) == []


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_refused_with_a_cure_that_works(pg: Path, tmp_path: Path, there: bool) -> None:
    outside = tmp_path / "it's outside"
    pg.rename(outside)
    pg.symlink_to(outside)
    if not there:
        outside.rmdir()
    with pytest.raises(Refused, match="Nothing was started") as refused:
        disk.refuse_if_linked(pg.parent, pg)
    ways = refused.value.cure.split("`")[1::2]
    assert ("mv" in refused.value.cure) is there
    subprocess.run(["sh", "-c", ways[1] if there else ways[0]], check=True)
    disk.refuse_if_linked(pg.parent, pg)
    assert pg.is_dir() is there


@contextmanager
def program(name: str, place: Path, tmp_path: Path) -> Iterator[int]:
    """Run a program of that name whose working directory is a place."""
    copied = shutil.copy(shutil.which("sleep") or "", tmp_path / name)
    with subprocess.Popen([copied, "60"], cwd=place) as child:
        yield child.pid
        child.kill()


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="there is no /proc")
def test_a_server_is_told_by_its_name_and_place(pg: Path, tmp_path: Path) -> None:
    with program("postgres", pg, tmp_path) as pid:
        assert processes.at_work_on(pg) is None  # a cluster at work has a postmaster.pid
        (pg / "postmaster.pid").write_text("1\n")
        found = processes.at_work_on(pg)
        assert found
        assert f"process {pid} " in found.who
        assert found.stop == f"kill -INT {pid}"
        pg.with_name("other").mkdir()
        (pg.with_name("other") / "postmaster.pid").write_text(f"{pid}\n")
        assert processes.at_work_on(pg.with_name("other")) is None
    with program("psql", pg, tmp_path):
        assert processes.at_work_on(pg) is None
