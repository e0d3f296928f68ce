"""What others on this machine and on the network see: sockets on loopback alone, secrets only where they are needed."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.checkout import configure, containers, docker, fail, run, sql, succeed, value
from tests.integration.conftest import Make

PASSWORD = "Sesam4711oeffne"
SECRET = "5e5a" * 16


def listeners(port: int) -> list[str]:
    """Return the addresses on which sockets of this machine listen on a port, as the kernel writes them."""
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            address, number = line.split()[1].split(":")
            if int(number, 16) == port and line.split()[3] == "0A":
                found.append(address)
    return found


def loopback_alone(port: int) -> bool:
    assert listeners(port) == ["0100007F"]  # 127.0.0.1
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)
    return True


def test_every_port_listens_on_loopback_alone(shared: Path) -> None:
    shown = docker("ps", "--filter", f"name={value(shared, 'COMPOSE_PROJECT_NAME')}", "--format", "{{.Ports}}")
    ports = {int(port) for port in re.findall(r":(\d+)->", shown)}
    assert ports > {int(value(shared, name)) for name in ("POSTGRES_PORT", "CONVEX_PORT")}
    assert all(map(loopback_alone, ports))


@contextmanager
def watched() -> Iterator[set[str]]:
    """Collect the command line of every process of this machine while the block runs."""
    seen: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.03):
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    try:
                        seen.add((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                    except OSError:  # it has ended
                        continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@pytest.mark.anew
def test_each_engine_listens_on_loopback_alone_and_says_no_secret(either: Path, tmp_path: Path) -> None:
    configure(either, POSTGRES_PASSWORD=PASSWORD)
    (either / "seed/010.sql").write_text("CREATE TABLE seeded ()")
    dump = str(tmp_path / "my.dump")
    said = ""
    with watched() as seen:
        succeed(either, "up")
        assert loopback_alone(int(value(either, "POSTGRES_PORT")))
        for command in (
            ("status",), ("--debug", "status", "--json"), ("seed",), ("dump", dump), ("psql", "-c", "SELECT 1"),
            ("load", dump, "--clean", "--yes"), ("logs",),
        ):  # fmt: skip
            result = run(either, *command)
            assert result.returncode == 0, f"{command}: {result.stderr}"
            said += result.stdout + result.stderr
        configure(either, POSTGRES_PASSWORD=f"{PASSWORD}2")
        said += fail(either, 1, "up", saying=("another password",))
    assert len([line for line in seen if " -m invoke " in line]) > 5  # the watch was awake
    assert any("psql" in line or "pg_dump" in line for line in seen)
    assert not [line for line in seen if PASSWORD in line]
    assert PASSWORD not in said


@pytest.fixture(scope="module")
def guarded(make_shared: Make) -> Path:
    """A stack that is up, with secrets that stand out."""
    made = make_shared(POSTGRES_PASSWORD=PASSWORD, CONVEX_INSTANCE_SECRET=SECRET)
    succeed(made, "up")
    return made


def test_a_container_knows_only_the_secret_that_it_needs(guarded: Path) -> None:
    sql(guarded, "SELECT 1")
    for service, container in containers(guarded).items():
        (found,) = json.loads(docker("inspect", container))
        held = [entry for entry in found["Config"].pop("Env") if PASSWORD in entry or SECRET in entry]
        assert held == {
            "postgres": [f"POSTGRES_PASSWORD={PASSWORD}"], "convex-backend": [f"INSTANCE_SECRET={SECRET}"]
        }.get(service, [])  # fmt: skip
        assert PASSWORD not in json.dumps(found)
        assert SECRET not in json.dumps(found)


def test_logs_and_status_hold_no_secret(guarded: Path) -> None:
    said = ""
    for command in ("status", "logs"):
        result = run(guarded, command)
        assert result.returncode == 0
        said += result.stdout + result.stderr
    assert re.search(r"postgres:\*+@", said)
    assert PASSWORD not in said
    assert SECRET not in said
