"""Three servers under Patroni: the first dies in the middle of a load, which is whole or not at all; no row is lost."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from stack.ground import settings
from stack.ground.lock import exclusive
from stack.server.programs import server_programs
from tests.integration import checkout
from tests.integration.checkout import INVOKE, configure, environment, eventually, succeed, unique
from tests.ports import own_ports

NAMES = ("one", "two", "three")
# What is acknowledged is on two servers; the leader's key ends soon after the leader.
PATRONI = """
scope: tested
name: {name}
restapi: {{listen: 127.0.0.1:{rest}, connect_address: 127.0.0.1:{rest}}}
etcd3: {{host: 127.0.0.1:{etcd}}}
bootstrap:
  dcs: {{ttl: 20, loop_wait: 1, retry_timeout: 3, synchronous_mode: true}}
  initdb: [encoding: UTF8, locale: C.UTF-8, auth-host: scram-sha-256, no-sync]
  pg_hba: [host all all 127.0.0.1/32 scram-sha-256, host replication all 127.0.0.1/32 scram-sha-256]
postgresql:
  listen: 127.0.0.1:{port}
  connect_address: 127.0.0.1:{port}
  data_dir: {folder}/{name}
  bin_dir: {programs}
  pgpass: {folder}/{name}.pgpass
  parameters: {{unix_socket_directories: {folder}, fsync: "off", shared_buffers: 32MB}}
  authentication:
    superuser: {{username: postgres, password: postgres}}
    replication: {{username: copier, password: copier}}
"""
SLOW = "CREATE TABLE big AS SELECT generate_series(1, 1000) AS n;\nSELECT pg_sleep(60);\n"
as_nobody = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups") if os.geteuid() == 0 else ()


class Servers:
    """etcd, and three servers that follow each other."""

    def __init__(self, folder: Path, programs: Path, numbers: list[int]) -> None:
        self.folder = folder
        self.etcd, peers = numbers[:2]
        self.ports = dict(zip(NAMES, numbers[2:5], strict=True))
        self.running = dict[str, subprocess.Popen[bytes]]()
        here, there = f"http://127.0.0.1:{self.etcd}", f"http://127.0.0.1:{peers}"
        self.begin(
            "etcd", "etcd", "--data-dir", f"{folder}/etcd", "--listen-client-urls", here, "--advertise-client-urls",
            here, "--listen-peer-urls", there, "--initial-advertise-peer-urls", there, "--initial-cluster",
            f"default={there}", "--unsafe-no-fsync",
        )  # fmt: skip
        for name, rest in zip(NAMES, numbers[5:], strict=True):
            text = PATRONI.format(name=name, rest=rest, etcd=self.etcd, port=self.ports[name], folder=folder,
                                  programs=programs)  # fmt: skip
            (folder / f"{name}.yml").write_text(text)
            self.begin(name, "patroni", str(folder / f"{name}.yml"))

    def begin(self, name: str, *argv: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                [*as_nobody, *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                env={**environment(), "HOME": str(self.folder)},
            )  # fmt: skip

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports.values())
        return f"postgresql://postgres:postgres@{hosts}/postgres?target_session_attrs=read-write&connect_timeout=3"

    def ask(self, query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.url, autocommit=True) as session:
            cursor = session.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def leader(self) -> str:
        """Return the name of the one that takes rows; empty while there is none."""
        with suppress(psycopg.OperationalError):
            [(port,)] = self.ask("SELECT current_setting('port')::int")
            return next(name for name, each in self.ports.items() if each == port)
        return ""

    def kill(self, name: str) -> None:
        """End one as a lost machine does: Patroni, its server and all sessions at once."""
        process = self.running.pop(name)
        server = int((self.folder / name / "postmaster.pid").read_text().split()[0])
        for pid in (*(each.pid for each in psutil.Process(process.pid).children(recursive=True)), server, process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(10)

    def stop(self) -> None:
        for name in [*NAMES, "etcd"]:
            if process := self.running.get(name):
                process.terminate()
        for process in self.running.values():
            process.wait(60)


@pytest.fixture(scope="module")
def programs() -> Path:
    for program, package in (("patroni", "patroni"), ("etcd", "etcd-server")):
        if not shutil.which(program):
            pytest.skip(f"there is no {program}: apt-get install {package}")
    with exclusive(settings.ROOT, timeout=600):
        return server_programs(settings.ROOT)


@contextmanager
def cluster(programs: Path) -> Iterator[Servers]:
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp())
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if as_nobody:
            shutil.chown(folder, "nobody")
        made = Servers(folder, programs, stack.enter_context(own_ports(8)))
        stack.callback(made.stop)
        try:
            eventually(made.leader, timeout=60)
            follow = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
            eventually(lambda: made.ask(follow) == [(2,)], timeout=60)
            sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
            eventually(lambda: made.ask(sync) == [(1,)], timeout=60)
        except AssertionError:
            pytest.fail("\n".join(log.read_text()[-3000:] for log in folder.glob("*.log")))
        yield made


def test_a_failover_in_the_middle_of_a_load(programs: Path, template: Path, tmp_path: Path) -> None:
    with (
        cluster(programs) as servers,
        checkout.checkout(
            template, tmp_path / unique(), STACK_ENGINE="external", DATABASE_URL=f"'{servers.url}'",
            POSTGRES_BIN_DIR=f"'{programs}'",
        ) as copy,
    ):  # fmt: skip
        use(copy, "before")
        (copy / "slow.sql").write_text(SLOW)
        loading = subprocess.Popen(
            [*INVOKE, "load", "slow.sql", "--clean", "--yes"], cwd=copy, env=environment(), stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL, encoding="utf-8",
        )  # fmt: skip
        at_work = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()"
        eventually(lambda: servers.ask(at_work), timeout=30)
        first = servers.leader()
        servers.kill(first)
        _, said = loading.communicate(timeout=60)
        assert loading.returncode == 1, said
        assert "server closed the connection unexpectedly" in said, said
        assert "Traceback" not in said
        succeed(copy, "wait-healthy", "--timeout", "60")
        eventually(servers.leader, timeout=60)
        assert servers.leader() != first
        # All that was acknowledged is there, and nothing of what was not.
        assert servers.ask("SELECT count(*), to_regclass('big') FROM loaded_before") == [(1000, None)]
        assert servers.ask("SELECT count(*) FROM typed_before") == [(1,)]
        use(copy, "after")
        configure(copy, DATABASE_URL=f"'{servers.url.replace('read-write', 'standby')}'")
        assert "is a standby, which can only be read, so nothing was done. Name the primary" in smoke(copy)


def use(copy: Path, name: str) -> None:
    """Type what there is for a server elsewhere."""
    succeed(copy, "wait-healthy", "--timeout", "30")
    (copy / "some.sql").write_text(f"CREATE TABLE loaded_{name} AS SELECT generate_series(1, 1000) AS n;\n")
    succeed(copy, "load", "some.sql", "--clean", "--yes")
    (copy / "seed" / "010_rows.sql").write_text(f"CREATE TABLE seeded_{name} ();\n")
    succeed(copy, "seed")
    succeed(copy, "psql", "-c", f"CREATE TABLE typed_{name} AS SELECT 1 AS n")
    succeed(copy, "dump", f"{name}.sql")
    assert f"CREATE TABLE public.seeded_{name}" in (copy / f"{name}.sql").read_text()
    assert "PGTARGETSESSIONATTRS=read-write" in succeed(copy, "env")
    assert smoke(copy).endswith("passed")
    succeed(copy, "status")


def smoke(copy: Path) -> str:
    """Return the last line of the smoke tests without its seconds."""
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/smoke"]
    done = subprocess.run(argv, check=False, cwd=copy, env=environment(), capture_output=True, text=True)
    assert done.returncode == ("passed" not in done.stdout or "failed" in done.stdout)
    return re.sub(r", \d+ skipped| in [\d.]+s\n?$", "", done.stdout + done.stderr)
