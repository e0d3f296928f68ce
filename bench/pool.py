"""A database per test: taken from a pool, against CREATE DATABASE … TEMPLATE of the same one."""

from __future__ import annotations

import sys
import time

import psycopg

from bench.rows import Row
from bench.saves import NO_SPARE, PATIENCE, clear, execute, filled, url
from bench.sites import Failed, Site, run

INVOKE = (sys.executable, "-m", "invoke")
SIZE = 8
COPIES = "SELECT count(*) FROM pg_database WHERE datname ~ '^stack_pool_' AND datallowconn"


def pooled(site: Site) -> None:
    """Prepare a pool of copies of a small database."""
    filled("small")(site)
    clear(site)
    run(site.root, *INVOKE, "snapshot", "bench", env=NO_SPARE)
    run(site.root, *INVOKE, "pool", "bench", "--size", str(SIZE), env=NO_SPARE)


def ready(site: Site) -> None:
    """Wait until all copies are there and no other database of ours but the snapshot."""
    deadline = time.monotonic() + PATIENCE
    there = "SELECT count(*) FROM pg_database WHERE datname ~ '^stack' AND datname !~ '^stack-undo-'"
    while execute(site, COPIES) != [SIZE] or execute(site, there) != [SIZE + 1]:
        if time.monotonic() > deadline:
            raise Failed(f"The pool was not whole within {PATIENCE:g} s.")
        time.sleep(0.05)
    execute(site, "CHECKPOINT")


def session(site: Site) -> psycopg.Connection[tuple[str]]:
    """Log in where the functions are."""
    return psycopg.connect(url(site), dbname="postgres", autocommit=True)


def taken(taker: psycopg.Connection[tuple[str]]) -> float:
    """Take one and give it back, and return the seconds that the first of the two took."""
    begun = time.perf_counter()
    ((name,),) = taker.execute("SELECT stack.take()").fetchall()
    seconds = time.perf_counter() - begun
    taker.execute("SELECT stack.give(%s)", [name])
    return seconds


def first(site: Site) -> float:
    """Take one as the first thing in a session."""
    with session(site) as taker:
        return taken(taker)


def second(site: Site) -> float:
    """Take one in a session that has done so before, as all tests but a worker's first do."""
    with session(site) as taker:
        taken(taker)
        return taken(taker)


def nothing_else(site: Site) -> float:
    """Ask for nothing in such a session: the way there and back."""
    with session(site) as taker:
        taken(taker)
        begun = time.perf_counter()
        taker.execute("SELECT 1").fetchall()
        return time.perf_counter() - begun


def created(site: Site, *, dropped: bool = False) -> float:
    """Copy the same database by hand; what it takes to drop it counts when it is `dropped`."""
    (snapshot,) = execute(site, "SELECT datname FROM pg_database WHERE datname ~ '^stack-snapshot-'")
    with session(site) as maker:
        begun = time.perf_counter()
        maker.execute(f'CREATE DATABASE bench_copy TEMPLATE "{snapshot}"'.encode())
        seconds = time.perf_counter() - begun
        maker.execute("DROP DATABASE bench_copy")
        return time.perf_counter() - begun if dropped else seconds


def one_test(site: Site) -> float:
    """Take one and give it back: what a test pays."""
    with session(site) as taker:
        taken(taker)
        begun = time.perf_counter()
        taken(taker)
        return time.perf_counter() - begun


def janitor(site: Site) -> float:
    """Make and drop one of the same template as pytest-postgresql does around each test."""
    from pytest_postgresql.janitor import DatabaseJanitor

    (snapshot,) = execute(site, "SELECT datname FROM pg_database WHERE datname ~ '^stack-snapshot-'")
    its = site.settings
    begun = time.perf_counter()
    with DatabaseJanitor(
        user=its.user, host="127.0.0.1", port=its.ports["POSTGRES_PORT"], version="17", dbname="bench_janitor",
        template_dbname=snapshot, password=its.password,
    ):  # fmt: skip
        pass
    return time.perf_counter() - begun


def many(site: Site) -> float:
    """Take and give so many, and see to it that nothing is left behind."""
    with session(site) as taker:
        begun = time.perf_counter()
        for _ in range(site.sizes["leases"]):
            taken(taker)
        seconds = time.perf_counter() - begun
    ready(site)
    return seconds


ROWS = (
    Row("pool-take", "SELECT stack.take(), of {small} MB", "postgres", pooled, ready, second,
        (("CREATE DATABASE … TEMPLATE", created, 0.02), ("the first of a session", first, None),
         ("SELECT 1", nothing_else, None)), times=3),
    Row("pool-test", "take and give, of {small} MB", "postgres", pooled, ready, one_test,
        (("pytest-postgresql: DatabaseJanitor, with the same template", janitor, None),
         ("CREATE DATABASE … TEMPLATE and DROP", lambda site: created(site, dropped=True), None)), times=3),
    Row("pool-many", "{leases} x (take, give), one after another", "postgres", pooled, ready, many,
        (("same, CREATE and DROP DATABASE",
          lambda site: sum(created(site, dropped=True) for _ in range(site.sizes["leases"])), None),), most=1),
)  # fmt: skip
