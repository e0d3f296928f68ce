"""A Docker that may not be talked to, has no Compose or an old one, and one that dies: told, and nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.checkout import ALONE, docker, environment, eventually, fail, succeed
from tests.integration.conftest import Make

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a second daemon, or hide programs")


@pytest.fixture
def with_data(copy: Path) -> Path:
    """A copy with something to lose."""
    (copy / "data/pg").mkdir()
    (copy / "data/pg/canary").touch()
    return copy


@as_root
def test_a_socket_that_may_not_be_used(images: dict[str, str], template: Path) -> None:
    home = Path(tempfile.mkdtemp(prefix="it-"))  # pytest's own folders are closed to other users
    try:
        copy = Path(shutil.copytree(template, home / "copy"))
        (copy / "data/pg").mkdir()
        (copy / "data/pg/canary").touch()
        for path in (home, *home.rglob("*")):
            os.chown(path, 1234, 1234, follow_symlinks=False)
        nobody = ("setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups")
        for command in (("up",), ("down",), ("status",), ("reset-data", "--yes")):
            saying = ("you may not talk to it", "`sudo usermod -aG docker $USER`")
            fail(copy, 1, *command, saying=saying, through=nobody, env={"HOME": str(home)})
        assert (copy / "data/pg/canary").exists()
    finally:
        shutil.rmtree(home)


def plugin() -> Path:
    """Return where the Compose plugin is."""
    found = json.loads(docker("info", "--format", "{{json .ClientInfo.Plugins}}"))
    return next(Path(each["Path"]) for each in found if each["Name"] == "compose")


@as_root
@pytest.mark.parametrize("old", [False, True], ids=["none", "v1 alone"])
def test_compose_is_not_there(with_data: Path, tmp_path: Path, old: bool) -> None:
    for name in ("empty", "home", "bin"):
        (tmp_path / name).mkdir()
    env = {"HOME": str(tmp_path / "home"), "DOCKER_CONFIG": str(tmp_path / "home")}
    if old:
        v1 = tmp_path / "bin/docker-compose"
        v1.write_text("#!/bin/sh\necho docker-compose version 1.29.2, build 5becea4c\n")
        v1.chmod(0o755)
        env["PATH"] = f"{v1.parent}:{os.environ['PATH']}"
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'  # seen by this command alone
    hidden = ("unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path / "empty"), str(plugin().parent))
    for command in (("up",), ("status",), ("reset-data", "--yes")):
        fail(with_data, 1, *command, saying=("no Compose plugin", "2.24 or newer"), through=hidden, env=env)
    assert (with_data / "data/pg/canary").exists()


def test_compose_is_too_old(with_data: Path, tmp_path: Path) -> None:
    shim = tmp_path / "cli-plugins/docker-compose"  # answers as 2.20.3 does to files with a start_interval
    shim.parent.mkdir()
    shim.write_text(
        """#!/bin/sh
case "$*" in
    docker-cli-plugin-metadata) echo '{"SchemaVersion": "0.1.0", "Vendor": "Docker Inc.", "Version": "v2.20.3"}' ;;
    *version*) echo 2.20.3 ;;
    *) echo "validating docker-compose.yml: services.postgres.healthcheck Additional property start_interval" \\
            "is not allowed" >&2; exit 15 ;;
esac
"""
    )
    shim.chmod(0o755)
    for command in (("up",), ("status",), ("reset-data", "--yes")):
        fail(with_data, 1, *command, saying=("2.24 or newer",), env={"DOCKER_CONFIG": str(tmp_path)})
    assert (with_data / "data/pg/canary").exists()


# -- a daemon of the test's own -----------------------------------------------------------------------------


class Daemon:
    """A second dockerd, with everything of its own: data, socket, and a network in which it cannot touch the first."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {"DOCKER_HOST": f"unix://{home}/socket"}
        # Lives on when the daemon dies, as a machine's network does.
        self._network = subprocess.Popen(["unshare", "--net", "sleep", "600"])
        own = Path(f"/proc/{self._network.pid}/ns/net")
        eventually(lambda: own.samefile("/proc/self/ns/net") is False)
        self.through: tuple[str, ...] = ("nsenter", f"--net={own}")
        subprocess.run([*self.through, "ip", "link", "set", "lo", "up"], check=True)
        self._child: subprocess.Popen[bytes] | None = None

    def docker(self, *args: str) -> int:
        argv = [*self.through, "docker", *args]
        return subprocess.run(argv, check=False, capture_output=True, env=environment(**self.env)).returncode

    def start(self) -> None:
        places = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
        flags = [f"--{name}={self.home / place}" for name, place in places.items()]
        argv = [*self.through, "dockerd", *flags, "--bridge=none", "--iptables=false", "--ip6tables=false",
                f"--host={self.env['DOCKER_HOST']}"]  # fmt: skip
        with (self.home / "log").open("ab") as log:
            self._child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        eventually(lambda: self.docker("info") == 0, timeout=60)

    def end(self, number: int) -> None:
        assert self._child
        self._child.send_signal(number)
        self._child.wait(60)

    def remove(self) -> None:
        if self._child and self._child.poll() is None:
            self.end(signal.SIGTERM)
        self._network.kill()
        self._network.wait()
        with suppress(subprocess.CalledProcessError):  # the daemon has mounted it on itself
            subprocess.run(["umount", str(self.home / "data")], check=True, capture_output=True)
        shutil.rmtree(self.home)


@pytest.fixture
def daemon(images: dict[str, str]) -> Iterator[Daemon]:
    """A second dockerd that has the image of PostgreSQL."""
    made = Daemon(Path(tempfile.mkdtemp(prefix="it-")))  # a socket's path may not be long
    try:
        made.start()
        with subprocess.Popen(["docker", "save", images["POSTGRES_IMAGE"]], stdout=subprocess.PIPE) as saved:
            argv = [*made.through, "docker", "load"]
            subprocess.run(argv, check=True, stdin=saved.stdout, capture_output=True, env=environment(**made.env))
        yield made
    finally:
        made.remove()


@as_root
def test_a_daemon_that_dies_and_comes_back_loses_nothing(make: Make, daemon: Daemon) -> None:
    copy = make(**ALONE)
    there = {"env": daemon.env, "through": daemon.through}
    try:
        succeed(copy, "up", **there)
        for n, number in enumerate((signal.SIGKILL, signal.SIGTERM)):
            succeed(copy, "psql", "-c", f"CREATE TABLE kept_{n} ()", **there)
            daemon.end(number)
            for command in (("status",), ("up",), ("down",), ("psql", "-c", "SELECT 1"), ("reset-data", "--yes")):
                fail(copy, 1, *command, saying=("Docker does not answer", "Start it"), within=20, **there)
            assert (copy / "data/pg/PG_VERSION").exists()
            daemon.start()
            succeed(copy, "up", **there)
        found = succeed(copy, "psql", "-c", "\\dt", **there)
        assert "kept_0" in found
        assert "kept_1" in found
        succeed(copy, "down", **there)
    finally:
        daemon.docker("compose", "--project-directory", str(copy), "down", "--timeout", "1")
