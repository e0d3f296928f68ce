import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from stack import ready
from stack.identity import Identity
from stack.places import Contents
from stack.process import StackError
from stack.service import Command, Endpoint, Service

ROOT = Path(__file__).resolve().parents[2]

UP = Service("postgres", "running", "healthy")
STARTING = replace(UP, health="starting", output="connection refused")


class Fake:
    """An engine whose services go through given states, one a look; the last one stays."""

    texts: ClassVar[dict[str, str]] = {}

    def __init__(self, *states: Service) -> None:
        self.states = list(states)
        self.log = ""
        self.held = Contents(39_000_000)
        self.root = ROOT

    def services(self) -> list[Service]:
        return [self.states.pop(0) if len(self.states) > 1 else self.states[0]]

    def endpoint(self) -> Endpoint:
        return Endpoint("localhost", 1, "u", "hunter2", "d")

    def directories(self) -> dict[str, Path]:
        return {"pg": ROOT / "data" / "pg"}

    def contents(self) -> Contents:
        return self.held

    def read(self, *_names: str) -> dict[str, str]:
        return {}

    def titles(self) -> list[str]:
        return ["postgres: u d 127.0.0.1(5) idle", "postgres: shop: u d 127.0.0.1(6) idle", "postgres: walwriter"]

    def trusted(self, _user: str, _database: str) -> Command:
        return Command(["false"], {})

    def last_words(self, service: str, lines: int = 15) -> str:
        return self.log or f"the log of {service}"

    def check_seen(self, services: list[Service]) -> None: ...


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def wait(engine: Any, timeout: float = 60, start: Any = None) -> float:
    clock = Clock()
    try:
        ready.wait_usable(engine, timeout, start, clock=clock, pause=clock.pause)
    finally:
        wait.took = clock.now  # type: ignore[attr-defined]
    return clock.now


@pytest.fixture(autouse=True)
def login(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def answer(refusal: str) -> None:
        def login(*_: object) -> str:
            if refusal:
                raise ready.LoginFailed(refusal)
            return "17.11"

        monkeypatch.setattr(ready, "login", login)

    answer("")
    return answer


def test_it_returns_when_healthy_and_the_login_works() -> None:
    assert wait(Fake(STARTING, STARTING, UP)) == pytest.approx(2 * ready.PAUSE)


def test_healthy_is_not_enough(login: Callable[[str], None]) -> None:
    login("connection refused")
    with pytest.raises(StackError, match=r"(?s)not usable within 5 s.*connection refused"):
        wait(Fake(UP), timeout=5)


def test_the_deadline_names_service_state_words_log_and_next_command() -> None:
    with pytest.raises(StackError) as error:
        wait(Fake(STARTING), timeout=3)
    for part in (
        "postgres",
        "within 3 s",
        "running, starting",
        "connection refused",
        "the log of postgres",
        "invoke logs",
    ):
        assert part in str(error.value)
    assert error.value.code == 1


@pytest.mark.parametrize(
    "state",
    [
        Service("postgres", "exited", exit_code=1),
        Service("postgres", "not started"),
        Service("postgres", "restarting", restarts=5, exit_code=1),
        replace(STARTING, output='psql: error: FATAL:  role "x" does not exist'),
        replace(STARTING, output='psql: error: FATAL:  database "x" does not exist'),
    ],
)
def test_it_gives_up_at_once_when_waiting_cannot_help(state: Service) -> None:
    with pytest.raises(StackError):
        wait(Fake(state))
    assert wait.took == 0  # type: ignore[attr-defined]


def test_a_crash_loop_ends_the_wait() -> None:
    with pytest.raises(StackError, match="keeps ending, with exit code 3"):
        wait(Fake(*(replace(STARTING, restarts=count, exit_code=3) for count in range(9))))
    assert wait.took == pytest.approx(2 * ready.PAUSE)  # type: ignore[attr-defined]


def test_restarts_of_the_past_do_not_count() -> None:
    assert wait(Fake(replace(STARTING, restarts=7), replace(UP, restarts=7))) > 0


@pytest.mark.parametrize(
    ("refusal", "cure"),
    [
        ('FATAL:  password authentication failed for user "u"', "does not take the password"),
        ('FATAL:  no pg_hba.conf entry for host "172.17.0.1"', "invoke reset-data"),
        ('FATAL:  database "d" does not exist', "another user or database"),
        ('FATAL:  role "u" is not permitted to log in', "NOLOGIN"),
        ("FATAL:  pg_hba.conf rejects connection for host", "turns this machine away"),
    ],
)
def test_a_login_that_can_never_work_says_why(login: Callable[[str], None], refusal: str, cure: str) -> None:
    login(refusal)
    with pytest.raises(StackError, match=cure) as error:
        wait(Fake(UP))
    assert wait.took == 0  # type: ignore[attr-defined]
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("log", "why", "cure"),
    [
        (
            "The data directory was initialized by PostgreSQL version 16, which is not compatible with this version"
            " 17.11 (Debian).",
            "made by PostgreSQL 16, and the stack runs 17",
            "POSTGRES_IMAGE=postgres:16 invoke up",
        ),
        (
            'initdb: error: directory "/var/lib/postgresql/data" exists but is not empty',
            "first start was interrupted",
            "invoke reset-data",
        ),
        (
            'could not open file "/var/lib/postgresql/data/global/pg_control": No such file or directory',
            "first start was interrupted",
            "invoke reset-data",
        ),
        (
            'FATAL:  could not open file "global/pg_filenode.map": Permission denied',
            "given to another user",
            "invoke restart postgres",
        ),
    ],
)
def test_what_a_dying_server_says_becomes_why_and_what_to_do(log: str, why: str, cure: str) -> None:
    engine = Fake(Service("postgres", "exited", exit_code=1))
    engine.log = log
    with pytest.raises(StackError, match=why) as error:
        wait(engine)
    assert cure in str(error.value)


@pytest.mark.parametrize(
    "log",
    [
        'FATAL:  could not open file "global/pg_filenode.map": No such file or directory',
        'initdb: error: directory "/var/lib/postgresql/data" exists but is not empty',
        "PANIC:  could not locate a valid checkpoint record",
        'PANIC:  could not read file "global/pg_control": read 100 of 296',
        'FATAL:  could not open file "/d/pg_xact/0000": No such file or directory',
        'DETAIL:  Could not open file "pg_xact/0000": No such file or directory.',
    ],
)
def test_nobodys_tables_are_called_half_made(log: str) -> None:
    engine = Fake(Service("postgres", "exited", exit_code=1))
    engine.log, engine.held = log, Contents(50_000_000, 3, 9_000_000, complete=True)
    with pytest.raises(StackError, match=r"(?s)missing or damaged.*holds 50 MB, with 3 files \(9.0 MB\)") as error:
        wait(engine)
    for word in ("reset", "half", "first start"):
        assert word not in str(error.value)


def test_what_a_log_says_to_others_is_no_reason() -> None:
    engine = Fake(STARTING)
    engine.log = 'FATAL:  password authentication failed for user "somebody"\nFATAL:  database "x" does not exist'
    with pytest.raises(StackError, match=r"not usable within 3 s\. Its state") as error:
        wait(engine, timeout=3)
    assert "doctor --fix" not in str(error.value)


def test_all_connections_are_waited_for_a_little_and_then_named(login: Callable[[str], None]) -> None:
    login("connection failed: FATAL:  sorry, too many clients already")
    with pytest.raises(
        StackError, match=r"all 2 connections of the server are taken: 2 by the user u \(database d, idle"
    ):
        wait(Fake(UP))
    assert wait.took == pytest.approx(ready.PATIENCE, abs=0.2)  # type: ignore[attr-defined]


def test_somebody_elses_server_has_no_data_of_ours(login: Callable[[str], None]) -> None:
    engine = Fake(UP)
    engine.endpoint = lambda: Endpoint("db.example.com", 1, "u", "p", "d", ours=False)  # type: ignore[method-assign]
    login('FATAL:  password authentication failed for user "u"')
    with pytest.raises(StackError, match="Mend DATABASE_URL") as error:
        wait(engine)
    assert "doctor --fix" not in str(error.value)


def test_a_one_shot_service_that_ended_well_is_ready() -> None:
    assert wait(Fake(Service("migrate", "exited", one_shot=True))) == 0


def test_a_start_is_watched_and_always_let_go() -> None:
    class Start:
        looks, abandoned = 0, False

        def done(self) -> bool:
            self.looks += 1
            return self.looks > 3

        def abandon(self) -> None:
            self.abandoned = True

    start = Start()
    assert wait(Fake(UP), start=start) == pytest.approx(3 * ready.PAUSE)
    assert start.abandoned


def test_what_ends_just_after_it_has_started_says_why() -> None:
    class Start:
        looks = 0

        def done(self) -> bool:
            self.looks += 1
            if self.looks > 1:
                raise StackError(
                    'FATAL:  could not open file "pg_xact/0000": No such file or directory\n', cure="Mend that."
                )
            return True

        def abandon(self) -> None:
            """Have nothing to leave."""

    engine = Fake(Service("postgres", "not started"))
    engine.held = Contents(50_000_000, 3, 9_000_000, complete=True)
    with pytest.raises(StackError, match=r"(?s)pg_xact/0000.*missing or damaged.*holds 50 MB, with 3 files") as error:
        wait(engine, start=Start())
    assert "is not running" not in str(error.value)


def test_missing_images_are_pulled_and_the_start_tried_again() -> None:
    class Engine(Fake):
        pulled = 0

        def start(self) -> Any:
            return self

        def done(self) -> bool:
            if not self.pulled:
                raise StackError("No such image")
            return True

        def abandon(self) -> None: ...

        def missing_images(self) -> list[str]:
            return [] if self.pulled else ["postgres:17"]

        def pull(self, *, missing: bool) -> None:
            assert missing
            self.pulled += 1

    engine = Engine(UP)
    ready.bring_up(engine, 5, pull=False, wait=True)  # type: ignore[arg-type]
    assert engine.pulled == 1


REFUSED_SIX = (
    """- host: 'localhost', port: '5433', hostaddr: '::1': connection failed: connection to server at "::1","""
    """ port 5433 failed: Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?"""
)
SERVER_FOUR = (
    """- host: 'localhost', hostaddr: '127.0.0.1': connection failed: connection to server at "127.0.0.1", port 5433"""
)
STARTING_UP, WRONG = "FATAL:  the database system is starting up", 'FATAL:  password authentication failed for user "u"'


@pytest.mark.parametrize("words", [WRONG, STARTING_UP, 'FATAL:  database "x" does not exist'])
def test_what_a_server_says_tells_more_than_an_address_where_nobody_is(words: str) -> None:
    four = f"{SERVER_FOUR} failed: {words}"
    for said in (f"{REFUSED_SIX}\n{four}", f"{four}\n{REFUSED_SIX}"):
        assert ready.telling(said).endswith(words)
    assert "Connection refused" in ready.telling(REFUSED_SIX)
    assert ready.telling("timeout expired") == "timeout expired"
    assert ready.telling("") == ""


def test_what_passes_by_itself_goes_before_what_does_not() -> None:
    parts = [f"{SERVER_FOUR} failed: {words}" for words in (WRONG, STARTING_UP)]
    assert ready.telling("\n".join(parts)).endswith(STARTING_UP)


def test_two_logins_at_once_both_do_without_the_shells_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def connect(*_: object, **__: object) -> None:
        seen.append(os.environ.get("PGSERVICE"))
        time.sleep(0.05)
        seen.append(os.environ.get("PGSERVICE"))

    monkeypatch.setattr("psycopg.connect", connect)
    monkeypatch.setenv("PGSERVICE", "elsewhere")
    logins = [threading.Thread(target=ready.connect, args=(Endpoint("h", 1, "u", "p", "d"),)) for _ in range(3)]
    for each in logins:
        each.start()
        time.sleep(0.02)
    for each in logins:
        each.join()
    assert seen == [None] * 6
    assert os.environ["PGSERVICE"] == "elsewhere"


def test_what_was_stopped_while_it_started_is_started_once_more() -> None:
    """Docker carries out a stop that a killed `down` has asked for, however late."""

    class Engine(Fake):
        starts = 0

        def start(self) -> Any:
            self.starts += 1
            self.states = [Service("postgres", "exited") if self.starts < 2 or self.hopeless else UP]
            return self

        def done(self) -> bool:
            return True

        def abandon(self) -> None: ...

        def missing_images(self) -> list[str]:
            return []

        hopeless = False

    engine = Engine(UP)
    ready.bring_up(engine, 5, pull=False, wait=True)  # type: ignore[arg-type]
    assert engine.starts == 2
    engine.starts, engine.hopeless = 0, True
    with pytest.raises(StackError, match="has ended with exit code 0"):
        ready.bring_up(engine, 5, pull=False, wait=True)  # type: ignore[arg-type]
    assert engine.starts == 2


def test_a_look_that_saw_nothing_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        info: ClassVar[Any] = type("Info", (), {"host": "h", "port": 1, "parameter_status": lambda *_: "9.5"})()

        def execute(self, query: str) -> list[object]:
            return []

    monkeypatch.setattr(ready, "_identity", lambda _: Identity())
    with pytest.raises(ready.Stranger):
        ready.prove(Session(), Identity, lambda: Identity(7))  # type: ignore[arg-type]
