"""A connection that breaks when a server that is run elsewhere is told to commit: what is said is true."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest

from stack.engines.embedded.engine import Embedded
from stack.engines.external import External
from stack.ground import settings
from stack.ground.errors import StackError
from stack.verbs import load, single, up
from stack.verbs.wait import wait_usable
from tests.unit.conftest import ask, embedded

pytestmark = pytest.mark.xdist_group("commit")  # they share a server


@pytest.fixture(scope="module")
def theirs(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with embedded(programs, tmp_path_factory.mktemp("theirs")) as made:
        up.bring_up(made, 30, pull=False, wait=True)
        yield made


@contextmanager
def through(theirs: Embedded, root: Path, programs: Path, at_commit: Callable[[], bool]) -> Iterator[External]:
    """A way to the server that breaks when COMMIT comes by, which goes on if `at_commit` says so, and then works."""
    there = theirs.endpoint().host, int(theirs.endpoint().port)
    with socket.create_server(("127.0.0.1", 0)) as listens:
        thread = Thread(target=serve, args=(listens, there, at_commit))
        thread.start()
        url = replace(theirs.endpoint(), host="127.0.0.1", port=listens.getsockname()[1]).url(masked=False)
        found = settings.load(
            root, {"STACK_ENGINE": "external", "DATABASE_URL": url, "POSTGRES_BIN_DIR": str(programs)}
        )
        try:
            yield External(found, root)
        finally:
            listens.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def serve(listens: socket.socket, there: tuple[str, int], at_commit: Callable[[], bool]) -> None:
    threads, over = list[Thread](), Event()  # the one COMMIT that is not answered is over

    def break_it(client: socket.socket, server: socket.socket, some: bytes) -> None:
        if at_commit():
            server.sendall(some)
        else:
            server.shutdown(socket.SHUT_RDWR)
        over.set()
        client.shutdown(socket.SHUT_RDWR)

    def to_server(client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while some := client.recv(1 << 16):
                if b"COMMIT;" in some and not over.is_set():
                    breaks.append(server)
                    break_it(client, server, some)
                    return
                server.sendall(some)
            server.shutdown(socket.SHUT_RDWR)

    def to_client(client: socket.socket, server: socket.socket) -> None:
        with client, server, suppress(OSError):
            while some := server.recv(1 << 16):
                if server in breaks:
                    break
                client.sendall(some)
            if server in breaks:
                over.wait(60)
            client.shutdown(socket.SHUT_RDWR)

    breaks = list[socket.socket]()
    with suppress(OSError):
        while True:
            pair = listens.accept()[0], socket.create_connection(there)
            threads += [Thread(target=work, args=pair) for work in (to_server, to_client)]
            for thread in threads[-2:]:
                thread.start()
    for thread in threads:
        thread.join(10)


def load_into(external: External, name: str) -> None:
    file = external.root / f"{name}.sql"
    file.write_text(f"CREATE TABLE {name} AS SELECT 1 AS n;")
    load.load(external, str(file), clean=False, yes=True)


def is_there(theirs: Embedded, name: str) -> bool:
    return ask(theirs, f"SELECT to_regclass('{name}')") is not None


@pytest.fixture(autouse=True)
def empty(theirs: Embedded) -> None:
    ask(theirs, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")


def test_what_was_committed_is_not_told_as_a_failure(theirs: Embedded, programs: Path, tmp_path: Path) -> None:
    with through(theirs, tmp_path, programs, lambda: True) as external:
        load_into(external, "one")
    assert is_there(theirs, "one")


def test_what_was_not_committed_is_told_with_the_reason(theirs: Embedded, programs: Path, tmp_path: Path) -> None:
    with through(theirs, tmp_path, programs, lambda: False) as external:
        with pytest.raises(StackError, match="server closed the connection unexpectedly"):
            load_into(external, "two")
        assert not is_there(theirs, "two")
        load_into(external, "two")
    assert is_there(theirs, "two")


@pytest.fixture
def waits_for_a_standby(theirs: Embedded) -> Iterator[Callable[[str], bool]]:
    def to(names: str) -> bool:
        ask(theirs, f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        ask(theirs, "SELECT pg_reload_conf()")
        cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        while names:  # until a commit waits
            probe = Thread(target=ask, args=(theirs, "CREATE TEMPORARY TABLE t ()"))
            probe.start()
            while probe.is_alive():
                if ask(theirs, cancel):
                    names = ""
                probe.join(0.05)
        return True

    yield to
    to("")


def test_a_server_that_is_still_at_it_is_waited_for(
    theirs: Embedded, programs: Path, tmp_path: Path, waits_for_a_standby: Callable[[str], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It was told as not loaded, and the rows came later."""
    monkeypatch.setattr(single, "PATIENCE", 1.0)
    with (
        through(theirs, tmp_path, programs, lambda: waits_for_a_standby("nobody")) as external,
        pytest.raises(StackError, match=r"cannot be asked: it is still at it\. Look whether the rows are there"),
    ):
        load_into(external, "three")
    waits_for_a_standby("")
    while ask(theirs, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"):
        pass
    assert is_there(theirs, "three")


def test_a_server_that_has_taken_over_is_not_asked_for_another_ones_number(
    theirs: Embedded, programs: Path, tmp_path: Path
) -> None:
    """Its own transaction of that number had been committed, and the load was told as done."""

    def take_over() -> bool:
        theirs.stop()
        (theirs.home.directory / "standby.signal").touch()
        wait_usable(theirs, 30, theirs.start())
        ask(theirs, "SELECT pg_promote()")
        for number in range(9):
            ask(theirs, f"CREATE TABLE other_{number} ()")
        return False

    with (
        through(theirs, tmp_path, programs, take_over) as external,
        pytest.raises(StackError, match=r"cannot be asked: another server has taken over since\. Look"),
    ):
        load_into(external, "four")
    assert not is_there(theirs, "four")
