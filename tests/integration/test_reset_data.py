"""What deletes: it shows, asks, refuses whatever is not plainly this checkout's own, and leaves no halves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration import checkout
from tests.integration.checkout import containers, foreign, run, sql, succeed, tables
from tests.integration.terminal import CTRL_C, Terminal


def canary(folder: Path) -> Callable[[], bool]:
    """Put a file in a folder, and return what tells whether it is still there."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "canary"
    file.write_text("alive")
    return lambda: file.exists() and file.read_text() == "alive"


def refuse(copy: Path, *args: str, saying: tuple[str, ...] = (), **options: Any) -> str:
    return checkout.fail(copy, 2, "reset-data", *args, saying=saying, **options)


@contextmanager
def untouched(copy: Path) -> Iterator[None]:
    """See to it that a stack that is up stays so, with the same containers and the same data."""

    def seen() -> tuple[dict[str, str], list[int], list[int]]:
        directories = [(copy / "data" / name).stat().st_ino for name in ("pg", "convex")]
        return containers(copy), directories, sql(copy, "SELECT system_identifier FROM pg_control_system()")

    before = seen()
    yield
    assert seen() == before
    assert run(copy, "status").returncode == 0


def test_a_dry_run_only_shows(shared: Path) -> None:
    with untouched(shared):
        result = run(shared, "reset-data", "--dry-run")
    assert result.returncode == 0
    assert result.stdout == ""
    assert f"{shared}/data/pg" in result.stderr
    assert f"{shared}/data/convex" in result.stderr
    assert " MB" in result.stderr


def test_without_a_terminal_it_wants_yes(shared: Path) -> None:
    with untouched(shared):
        refuse(shared, saying=("--yes", "nothing was touched"))
        refuse(shared, stdin="y\n", saying=("--yes", "nothing was touched"))
        checkout.fail(shared, 2, "reset", stdin="y\n", saying=("--yes", "nothing was touched"))


@pytest.mark.parametrize("answer", ["n\n", "\n", "what?\n", CTRL_C])
def test_any_answer_but_yes_means_no(shared: Path, answer: str) -> None:
    with untouched(shared), closing(Terminal(shared, "reset-data")) as terminal:
        terminal.expect("[y/N]")
        terminal.type(answer)
        assert terminal.wait() == (130 if answer == CTRL_C else 2)
        assert "Traceback" not in terminal.said


def test_yes_on_a_terminal_deletes(started: Path) -> None:
    with closing(Terminal(started, "reset-data")) as terminal:
        terminal.expect("[y/N]")
        terminal.type("y\n")
        assert terminal.wait(60) == 0, terminal.said
    assert containers(started) == {}
    assert leaves(started) == set()


def test_one_service_loses_its_data_the_other_keeps_it(started: Path) -> None:
    sql(started, "CREATE TABLE kept ()")
    succeed(started, "reset-data", "--service", "convex", "--yes")
    assert leaves(started) == {"pg"}
    succeed(started, "up")
    assert tables(started) == ["kept"]
    succeed(started, "reset-data", "--service", "pg", "--yes")
    assert leaves(started) == {"convex"}
    assert (started / "data/convex/credentials").is_dir()


def test_an_unknown_service_is_refused(shared: Path) -> None:
    with untouched(shared):
        refuse(shared, "--service", "mysql", "--yes", saying=("mysql", "pg"))


def test_no_data_is_no_error(copy: Path) -> None:
    assert succeed(copy, "reset-data", "--yes") == ""
    assert leaves(copy) == set()


def leaves(copy: Path) -> set[str]:
    """What is in data/ that should not be there when all is deleted."""
    return {path.name for path in (copy / "data").iterdir()} - {".gitkeep", ".lock"}


# -- nothing but this checkout's own ----------------------------------------------------------------------


@pytest.mark.parametrize("where", ["data/pg", "data"])
def test_a_symbolic_link_is_not_followed(copy: Path, tmp_path: Path, where: str) -> None:
    outside = tmp_path / "outside"
    alive = canary(outside if where == "data/pg" else outside / "pg")
    if where == "data":
        shutil.rmtree(copy / "data")
    (copy / where).symlink_to(outside)
    refuse(copy, "--yes", saying=("symbolic link", f"{copy}/{where}"))
    assert alive()
    assert (copy / where).is_symlink()


def test_data_that_a_foreign_container_mounts_is_not_deleted(started: Path) -> None:
    sql(started, "CREATE TABLE kept ()")
    with foreign("--volume", f"{started}/data/pg:/x") as name:
        with untouched(started):  # refused before anything is stopped
            refuse(started, "--yes", saying=(name, f"docker stop {name}"))
        succeed(started, "down")
        refuse(started, "--yes", saying=(name, f"docker stop {name}"))
        assert leaves(started) == {"pg", "convex"}
    succeed(started, "up")
    assert tables(started) == ["kept"]


def test_data_that_another_layer_put_elsewhere_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "docker-compose.moved.yml").write_text(
        f"services: {{postgres: {{volumes: ['{tmp_path}/elsewhere:/var/lib/postgresql/data']}}}}"
    )
    checkout.configure(copy, STACK_LAYERS="dev,moved")
    alive = [canary(folder) for folder in (tmp_path / "elsewhere", copy / "data/pg", copy / "data/convex")]
    refuse(copy, "--yes", saying=(f"{tmp_path}/elsewhere",))
    refuse(copy, "--service", "pg", "--yes")
    assert all(still() for still in alive)


def test_what_a_dead_run_moved_aside_is_deleted_by_the_next(copy: Path) -> None:
    canary(copy / "data/.wiped-pg-123")
    succeed(copy, "reset-data", "--yes")
    assert leaves(copy) == set()
    canary(copy / "data/.wiped-convex-123")
    succeed(copy, "up")
    assert leaves(copy) == {"pg", "convex"}


# -- by somebody who may not even look into data/pg -------------------------------------------------------


@dataclass
class Ordinary:
    """A copy that belongs to an ordinary user, and what is done by that user."""

    copy: Path
    through: tuple[str, ...]

    def does(self, *args: str) -> subprocess.CompletedProcess[str]:
        result = run(self.copy, *args, through=self.through, env={"HOME": str(self.copy.parent)})
        assert result.returncode == 0, f"{args}: {result.stdout}{result.stderr}"
        return result


@pytest.fixture
def ordinary(images: dict[str, str], template: Path) -> Iterator[Ordinary]:
    """The user who runs the tests; when that is root, one without a name who may talk to Docker."""
    through: tuple[str, ...] = ()
    home = Path(tempfile.mkdtemp(prefix="it-"))  # pytest's own folders are closed to other users
    with checkout.checkout(template, home / 'a "quoted", $old folder') as made:
        if os.geteuid() == 0:
            group = Path("/var/run/docker.sock").stat().st_gid
            through = ("setpriv", "--reuid", "1234", "--regid", "1234", "--groups", str(group))
            for path in (home, *home.rglob("*")):
                os.chown(path, 1234, 1234, follow_symlinks=False)
            can = subprocess.run([*through, sys.executable, "-c", "import invoke"], check=False, capture_output=True)
            if can.returncode:
                pytest.skip(f"another user than root may not use {sys.executable}")
        yield Ordinary(made, through)
    shutil.rmtree(home)


def test_an_ordinary_user_goes_through_it_all(ordinary: Ordinary) -> None:
    copy = ordinary.copy
    (copy / "seed/010.sql").write_text("CREATE TABLE seeded ()")
    ordinary.does("up")
    assert (copy / "data/pg").stat().st_uid != copy.stat().st_uid
    assert " MB" in ordinary.does("status").stdout
    assert " MB" in ordinary.does("reset-data", "--dry-run").stderr
    ordinary.does("reset", "--yes")
    assert tables(copy) == ["seeded"]
    kept = {name for name in leaves(copy) if name.startswith((".after-reset", ".new-kept-"))}
    assert leaves(copy) - kept == {"pg", "convex", ".pg-snapshots"}
    ordinary.does("down")
    assert " MB" in ordinary.does("reset-data", "--dry-run").stderr
    (copy / "data/pg").rename(copy / "data/.wiped-pg-123")  # a dead run got so far
    ordinary.does("reset-data", "--yes")
    assert leaves(copy) <= {".pg-snapshots"}


def test_an_ordinary_user_goes_through_it_all_on_volumes(ordinary: Ordinary) -> None:
    """On Linux a volume is a directory that only root may enter."""
    checkout.configure(ordinary.copy, STACK_LAYERS="dev,volumes,alone")
    for command in (("up",), ("snapshot", "s1"), ("restore",), ("status",), ("down",), ("doctor",), ("up",)):
        ordinary.does(*command)
    shown = ordinary.does("reset-data", "--dry-run").stderr
    assert " MB" in shown
    assert "snapshots s1" in shown
    ordinary.does("reset-data", "--yes")
    assert leaves(ordinary.copy) == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take a folder away from its user")
def test_data_that_may_not_be_touched_is_told(ordinary: Ordinary) -> None:
    (ordinary.copy / "data/.lock").touch(0o666)
    (ordinary.copy / "data/.lock").chmod(0o666)
    os.chown(ordinary.copy / "data", 0, 0)
    result = run(ordinary.copy, "up", through=ordinary.through, env={"HOME": str(ordinary.copy.parent)})
    assert result.returncode == 1
    assert f"{ordinary.copy}/data" in result.stderr
