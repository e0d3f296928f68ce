import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from stack.engines.base import Service, Start
from stack.ground.errors import StackError
from stack.server import identity, session
from stack.server.address import Endpoint
from stack.server.identity import Identity
from stack.server.pgdata import Contents
from stack.verbs import login as login_room
from stack.verbs import up
from stack.verbs import wait as wait_room
from stack.verbs.wait import Lost, Past, Ready, Seen, Stopped, Waiting, judge
from tests.fake import FakeEngine, FakeStart

UP = Service("postgres", "running", "healthy")
STARTING = replace(UP, health="starting", output="connection refused")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def wait(engine: Any, timeout: float = 60, start: Any = None) -> float:
    clock = Clock()
    try:
        wait_room.wait_usable(engine, timeout, start, clock=clock, pause=clock.pause)
    finally:
        wait.took = clock.now  # type: ignore[attr-defined]
    return clock.now


@pytest.fixture(autouse=True)
def login(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def answer(refusal: str) -> None:
        def login(*_: object) -> str:
            if refusal:
                raise session.LoginFailed(refusal)
            return "17.11"

        monkeypatch.setattr(wait_room, "login", login)

    answer("")
    return answer


def test_it_returns_when_healthy_and_the_login_works() -> None:
    assert wait(FakeEngine(STARTING, STARTING, UP)) == pytest.approx(2 * wait_room.PAUSE)


def test_healthy_is_not_enough(login: Callable[[str], None]) -> None:
    login("connection refused")
    with pytest.raises(StackError, match=r"(?s)not usable within 5 s.*connection refused"):
        wait(FakeEngine(UP), timeout=5)


def test_the_deadline_names_service_state_words_log_and_next_command() -> None:
    with pytest.raises(StackError) as error:
        wait(FakeEngine(STARTING), timeout=3)
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
        wait(FakeEngine(state))
    assert wait.took == 0  # type: ignore[attr-defined]


def test_a_crash_loop_ends_the_wait() -> None:
    with pytest.raises(StackError, match="keeps ending, with exit code 3"):
        wait(FakeEngine(*(replace(STARTING, restarts=count, exit_code=3) for count in range(9))))
    assert wait.took == pytest.approx(2 * wait_room.PAUSE)  # type: ignore[attr-defined]


def test_restarts_of_the_past_do_not_count() -> None:
    assert wait(FakeEngine(replace(STARTING, restarts=7), replace(UP, restarts=7))) > 0


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
        wait(FakeEngine(UP))
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
    engine = FakeEngine(Service("postgres", "exited", exit_code=1))
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
    engine = FakeEngine(Service("postgres", "exited", exit_code=1))
    engine.log, engine.data.held = log, Contents(50_000_000, 3, 9_000_000, complete=True)
    with pytest.raises(StackError, match=r"(?s)missing or damaged.*holds 50 MB, with 3 files \(9.0 MB\)") as error:
        wait(engine)
    for word in ("reset", "half", "first start"):
        assert word not in str(error.value)


def test_what_a_log_says_to_others_is_no_reason() -> None:
    engine = FakeEngine(STARTING)
    engine.log = 'FATAL:  password authentication failed for user "somebody"\nFATAL:  database "x" does not exist'
    with pytest.raises(StackError, match=r"not usable within 3 s\. Its state") as error:
        wait(engine, timeout=3)
    assert "doctor --fix" not in str(error.value)


def test_all_connections_are_waited_for_a_little_and_then_named(login: Callable[[str], None]) -> None:
    login("connection failed: FATAL:  sorry, too many clients already")
    with pytest.raises(
        StackError, match=r"all 2 connections of the server are taken: 2 by the user u \(database d, idle"
    ):
        wait(FakeEngine(UP))
    assert wait.took == pytest.approx(wait_room.PATIENCE, abs=0.2)  # type: ignore[attr-defined]


def test_somebody_elses_server_has_no_data_of_ours(login: Callable[[str], None]) -> None:
    engine = FakeEngine(UP)
    engine.endpoint = lambda: Endpoint("db.example.com", 1, "u", "p", "d", ours=False)  # type: ignore[method-assign]
    login('FATAL:  password authentication failed for user "u"')
    with pytest.raises(StackError, match="Mend DATABASE_URL") as error:
        wait(engine)
    assert "doctor --fix" not in str(error.value)


def test_a_one_shot_service_that_ended_well_is_ready() -> None:
    assert wait(FakeEngine(Service("migrate", "exited", one_shot=True))) == 0


def test_a_start_is_watched_and_always_let_go() -> None:
    looks = iter([False, False, False])
    start = FakeStart(lambda: next(looks, True))
    assert wait(FakeEngine(UP), start=start) == pytest.approx(3 * wait_room.PAUSE)
    assert start.left


def test_what_ends_just_after_it_has_started_says_why() -> None:
    looks = iter([True])

    def answer() -> bool:
        if next(looks, False):
            return True
        raise StackError('FATAL:  could not open file "pg_xact/0000": No such file or directory\n', cure="Mend that.")

    engine = FakeEngine(Service("postgres", "not started"))
    engine.data.held = Contents(50_000_000, 3, 9_000_000, complete=True)
    with pytest.raises(StackError, match=r"(?s)pg_xact/0000.*missing or damaged.*holds 50 MB, with 3 files") as error:
        wait(engine, start=FakeStart(answer))
    assert "is not running" not in str(error.value)


class FakeImages:
    """One image, which is missing until it is pulled."""

    pulled = 0

    def missing(self) -> list[str]:
        return [] if self.pulled else ["postgres:17"]

    def pull(self, *, missing: bool = False) -> None:
        assert missing
        self.pulled += 1


def test_missing_images_are_pulled_and_the_start_tried_again() -> None:
    images = FakeImages()

    def answer() -> bool:
        if not images.pulled:
            raise StackError("No such image")
        return True

    class Engine(FakeEngine):
        def start(self) -> Start:
            return FakeStart(answer)

    engine = Engine(UP)
    engine.images = images
    up.bring_up(engine, 5, pull=False, wait=True)
    assert images.pulled == 1


def test_images_are_asked_for_when_the_start_has_failed_and_not_when_a_service_has() -> None:
    images = FakeImages()
    engine = FakeEngine(Service("postgres", "exited", exit_code=1))
    engine.images = images
    with pytest.raises(StackError, match="has ended with exit code 1"):
        up.bring_up(engine, 5, pull=False, wait=True)
    assert not images.pulled


GONE = Service("postgres", "exited", exit_code=1)
CREATED, AGAIN = Service("postgres", "created"), replace(UP, restarts=2)
LOOP = Service("postgres", "restarting", restarts=3, exit_code=2)
WRONG_PASSWORD = 'FATAL:  password authentication failed for user "u"'
FULL = "FATAL:  sorry, too many clients already"
CROWDED = replace(UP, health="unhealthy", output=FULL)
RECOVERING = "FATAL:  the database system is in recovery mode"
LOST_FILE = 'FATAL:  could not open file "global/pg_filenode.map": No such file or directory'
HEARD = Past(since={"full": -wait_room.PATIENCE, "recovery": -wait_room.PATIENCE})
NOTHING = Past()


@pytest.mark.parametrize(
    ("service", "started", "refusal", "past", "verdict"),
    [
        # what is ready
        (UP, True, "", NOTHING, Ready()),
        (replace(UP, health=""), True, "", NOTHING, Ready()),
        (Service("migrate", "exited", one_shot=True), True, "", NOTHING, Ready()),
        (replace(UP, restarts=7), True, "", NOTHING, Ready()),
        # what is not yet
        (UP, False, "", NOTHING, Waiting(UP, "")),
        (STARTING, True, "", NOTHING, Waiting(STARTING, "postgres (starting)")),
        (STARTING, False, "", NOTHING, Waiting(STARTING, "postgres (starting)")),
        (CREATED, True, "", NOTHING, Waiting(CREATED, "postgres (created)")),
        (UP, True, "connection refused", NOTHING, Waiting(UP, "connection refused", "connection refused")),
        (UP, True, FULL, NOTHING, Waiting(UP, FULL, FULL)),
        (UP, True, RECOVERING, NOTHING, Waiting(UP, RECOVERING, RECOVERING)),
        (replace(LOOP, restarts=1), True, "", NOTHING, Waiting(replace(LOOP, restarts=1), "postgres (restarting)")),
        # yesterday's container, about to be replaced
        (GONE, False, "", NOTHING, Waiting(GONE, "postgres (exited)")),
        (Service("postgres"), False, "", NOTHING, Waiting(Service("postgres"), "postgres (not started)")),
        (replace(STARTING, output=WRONG_PASSWORD), False, "", NOTHING,
         Waiting(replace(STARTING, output=WRONG_PASSWORD), "postgres (starting)")),
        # what is lost
        (Service("postgres"), True, "", NOTHING, Lost(Service("postgres"), "is not running")),
        (GONE, True, "", NOTHING, Lost(GONE, "has ended with exit code 1")),
        (Service("postgres", "dead", exit_code=137), True, "", NOTHING,
         Lost(Service("postgres", "dead", exit_code=137), "has ended with exit code 137")),
        (Service("postgres", "exited"), True, "", NOTHING,
         Lost(Service("postgres", "exited"), "has ended with exit code 0", failure=Stopped)),
        (Service("m", "exited", exit_code=1, one_shot=True), True, "", NOTHING,
         Lost(Service("m", "exited", exit_code=1, one_shot=True), "has ended with exit code 1")),
        (LOOP, True, "", NOTHING, Lost(LOOP, "keeps ending, with exit code 2")),
        (AGAIN, True, "", Past({"postgres": 0}), Lost(AGAIN, "keeps ending, with exit code 0")),
        (AGAIN, False, "", Past({"postgres": 0}), Lost(AGAIN, "keeps ending, with exit code 0")),
        (AGAIN, True, "", Past({"postgres": 1}), Ready()),
        (replace(STARTING, output=WRONG_PASSWORD), True, "", NOTHING,
         Lost(replace(STARTING, output=WRONG_PASSWORD), "does not let us in")),
        (UP, True, WRONG_PASSWORD, NOTHING, Lost(UP, "does not let us in", WRONG_PASSWORD)),
        (UP, True, FULL, HEARD, Lost(UP, "does not let us in", FULL)),
        (CROWDED, True, "", HEARD, Waiting(CROWDED, "postgres (unhealthy)")),
        (CROWDED, True, FULL, HEARD, Lost(CROWDED, "does not let us in", FULL)),
        (UP, True, RECOVERING, HEARD, Lost(UP, "does not let us in", RECOVERING)),
    ],
)  # fmt: skip
def test_a_look_is_judged_without_a_clock(
    service: Service, started: bool, refusal: str, past: Past, verdict: object
) -> None:
    seen = Seen(0.0, started, [service], refusal, LOST_FILE)
    found, after = judge(seen, past)
    assert found == verdict
    assert judge(seen, past) == (found, after)  # it remembers nothing by itself
    assert after.restarts[service.name] <= service.restarts


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
        assert login_room.telling(said).endswith(words)
    assert "Connection refused" in login_room.telling(REFUSED_SIX)
    assert login_room.telling("timeout expired") == "timeout expired"
    assert login_room.telling("") == ""


def test_what_passes_by_itself_goes_before_what_does_not() -> None:
    parts = [f"{SERVER_FOUR} failed: {words}" for words in (WRONG, STARTING_UP)]
    assert login_room.telling("\n".join(parts)).endswith(STARTING_UP)


def test_two_logins_at_once_both_do_without_the_shells_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def connect(*_: object, **__: object) -> None:
        seen.append(os.environ.get("PGSERVICE"))
        time.sleep(0.05)
        seen.append(os.environ.get("PGSERVICE"))

    monkeypatch.setattr("psycopg.connect", connect)
    monkeypatch.setenv("PGSERVICE", "elsewhere")
    logins = [threading.Thread(target=session.connect, args=(Endpoint("h", 1, "u", "p", "d"),)) for _ in range(3)]
    for each in logins:
        each.start()
        time.sleep(0.02)
    for each in logins:
        each.join()
    assert seen == [None] * 6
    assert os.environ["PGSERVICE"] == "elsewhere"


def test_what_was_stopped_while_it_started_is_started_once_more() -> None:
    """Docker carries out a stop that a killed `down` has asked for, however late."""

    class Engine(FakeEngine):
        starts, hopeless = 0, False

        def start(self) -> Start:
            self.starts += 1
            self.states = [Service("postgres", "exited") if self.starts < 2 or self.hopeless else UP]
            return FakeStart()

    engine = Engine(UP)
    engine.images = FakeImages()
    up.bring_up(engine, 5, pull=False, wait=True)
    assert engine.starts == 2
    engine.starts, engine.hopeless = 0, True
    with pytest.raises(StackError, match="has ended with exit code 0"):
        up.bring_up(engine, 5, pull=False, wait=True)
    assert engine.starts == 2


def test_a_look_that_saw_nothing_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        info: ClassVar[Any] = type("Info", (), {"host": "h", "port": 1, "parameter_status": lambda *_: "9.5"})()

        def execute(self, query: str) -> list[object]:
            return []

    monkeypatch.setattr(identity, "_identity", lambda _: Identity())
    with pytest.raises(identity.Stranger):
        identity.prove(Session(), Identity, lambda: Identity(7))  # type: ignore[arg-type]


def test_only_a_login_from_here_tells_that_nothing_forwards_the_port() -> None:
    """A health check asks from inside, and of a server that keeps ending it finds nobody there."""
    ending = Service("postgres", "restarting", "unhealthy", exit_code=1, restarts=3, output=REFUSED_SIX)
    told = str(wait_room.word(FakeEngine(), Lost(ending, "keeps ending, with exit code 1")))
    assert "Nothing forwards its port" not in told
    assert "Type `invoke logs postgres` for more" in told
    assert "Nothing forwards its port" in str(wait_room.word(FakeEngine(), Lost(UP, "does not answer", REFUSED_SIX)))
