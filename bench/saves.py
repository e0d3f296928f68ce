"""Save points against DSLR, and dumps against pg_dump and pg_restore, on one server, at three sizes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from bench.rows import Measure, Row, invoke, nothing
from bench.sites import Failed, Site, ask, run

DSLR = str(Path(sys.executable).with_name("dslr"))
NO_SPARE = {"STACK_SPARE": "0"}
PATIENCE = 120.0
"""Seconds that the background gets to prepare a spare of the largest size."""


def url(site: Site) -> str:
    """Return where the site's database is."""
    its = site.settings
    return f"postgresql://{its.user}:{its.password}@127.0.0.1:{its.ports['POSTGRES_PORT']}/{its.database}"


def execute(site: Site, *statements: str, database: str = "convex_poc") -> list[Any]:
    """Run statements from this machine and return the first column of the last."""
    with psycopg.connect(url(site), dbname=database, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
        return [row[0] for row in cursor] if cursor.description else []


def start(site: Site) -> None:
    """Start, and wait for a login however busy the disk still is."""
    site.compose("up", "--detach")
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            execute(site, "SELECT 1")
            break
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise Failed(f"The database did not answer within {PATIENCE:g} s: {error}") from None
            time.sleep(0.1)


def filled(megabytes: str) -> Callable[[Site], None]:
    """Prepare a database of a size, of which zstd makes a seventh, as of many a real one.

    A row takes 2 kB, is too short for the server to compress it, and four fit on a page.
    """

    def once(site: Site) -> None:
        start(site)
        rows = site.sizes[megabytes] * 512
        if execute(site, "SELECT to_regclass('bench_filler') IS NOT NULL") == [True] and execute(
            site, "SELECT count(*) FROM bench_filler"
        ) == [rows]:
            return
        clear(site)
        empty(site)
        state = "CREATE TABLE bench_state (n int)"
        text = "(SELECT string_agg(repeat(md5(n::text || i), 4), '') FROM generate_series(1, 15) AS i)"
        filler = f"SELECT n, {text} AS filler FROM generate_series(1, {rows}) AS n"
        execute(site, f"CREATE TABLE bench_filler AS {filler}", state, "VACUUM", "CHECKPOINT")

    return once


def empty(site: Site) -> None:
    """Make the database anew."""
    execute(site, "DROP DATABASE IF EXISTS convex_poc WITH (FORCE)", "CREATE DATABASE convex_poc", "CHECKPOINT",
            database="postgres")  # fmt: skip


def clear(site: Site) -> None:
    """Delete every snapshot of ours and of DSLR, and wait until the machine is quiet."""
    for name in (each["name"] for each in snapshots(site)):
        run(site.root, sys.executable, "-m", "invoke", "drop-snapshot", name, "--yes", env=NO_SPARE)
    for name in execute(site, "SELECT datname FROM pg_database WHERE datname LIKE 'dslr!_%' ESCAPE '!'"):
        execute(site, f'DROP DATABASE "{name}"')
    quiet(site, left=0)


def snapshots(site: Site) -> list[dict[str, Any]]:
    """Return our snapshots."""
    return list(json.loads(ask(site.root, sys.executable, "-m", "invoke", "snapshots", "--json")))


def quiet(site: Site, left: int) -> None:
    """Wait until so many databases of ours are there and nothing works on them, then let the disk catch up."""
    deadline = time.monotonic() + PATIENCE
    busy = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'stack_%'"
    there = "SELECT count(*) FROM pg_database WHERE datname LIKE 'stack_%' AND datname NOT LIKE 'stack-undo-%'"
    while execute(site, busy) != [0] or execute(site, there) != [left]:
        if time.monotonic() > deadline:
            raise Failed(f"The background was not done within {PATIENCE:g} s.")
        time.sleep(0.1)
    execute(site, "CHECKPOINT")
    run(site.root, "sync")


def saved(megabytes: str, *, spare: bool) -> Callable[[Site], None]:
    """Prepare a database of a size, with one snapshot of ours and one of DSLR."""

    def once(site: Site) -> None:
        filled(megabytes)(site)
        clear(site)
        run(site.root, sys.executable, "-m", "invoke", "snapshot", "bench", env={} if spare else NO_SPARE)
        dslr("snapshot", "bench")(site)

    return once


def dslr(*args: str) -> Measure:
    """Measure a command of DSLR."""
    return lambda site: run(site.root, DSLR, "--url", url(site), *args)


def load_by_hand(site: Site) -> float:
    """Bring the dump into an empty database with pg_restore in the container."""
    words = ("docker", "exec", "-i", f"{site.settings.project}-postgres", "pg_restore", "-1", "-U", "postgres")
    return run(site.root, *words, "-d", "convex_poc", stdin="bench.dump")


def loaded(site: Site) -> None:
    """Prepare a load that can be undone."""
    dumped(site)
    run(site.root, sys.executable, "-m", "invoke", "load", "bench.dump", "--clean", "--yes")


def rename_by_hand(site: Site) -> float:
    """Rename a database with psql in the container, there and back."""
    words = ("docker", "exec", f"{site.settings.project}-postgres", "psql", "-U", "postgres", "-d", "postgres")
    there, back = "ALTER DATABASE convex_poc RENAME TO bench_x", "ALTER DATABASE bench_x RENAME TO convex_poc"
    return run(site.root, *words, "-c", there, "-c", back)


def inserts(site: Site) -> None:
    """Prepare a file of one-row INSERTs, each a transaction of its own."""
    start(site)
    clear(site)
    lines = (f"INSERT INTO bench_rows VALUES ({n}, 'row {n}');\n" for n in range(site.sizes["inserts"]))
    (site.root / "inserts.sql").write_text("CREATE TABLE bench_rows (id int, name text);\n" + "".join(lines))


def inserts_by_hand(site: Site) -> float:
    """Run them with psql in the container, in one transaction."""
    words = ("docker", "exec", "-i", f"{site.settings.project}-postgres", "psql", "-qX1", "-v", "ON_ERROR_STOP=1")
    return run(site.root, *words, "-U", "postgres", "-d", "convex_poc", stdin="inserts.sql")


def dump_by_hand(site: Site) -> float:
    """Write a dump with pg_dump in the container, to the disk as ours."""
    dump = f"docker exec {site.settings.project}-postgres pg_dump -Fc -Z zstd -U postgres -d convex_poc"
    return run(site.root, "sh", "-c", f"{dump} > by-hand.dump && sync by-hand.dump")


def dumped(site: Site) -> None:
    """Prepare a dump of the database of the middle size."""
    filled("middle")(site)
    clear(site)
    (site.root / "bench.dump").unlink(missing_ok=True)
    run(site.root, sys.executable, "-m", "invoke", "dump", "bench.dump")


def changed(site: Site) -> None:
    """Prepare a snapshot of two dozen tables, of which one is changed since."""
    start(site)
    clear(site)
    empty(site)
    columns = "id bigserial PRIMARY KEY, name text NOT NULL, n int DEFAULT 3, at timestamptz DEFAULT now(), more jsonb"
    execute(site, *(f"CREATE TABLE bench_{n} ({columns}); CREATE INDEX ON bench_{n} (name)" for n in range(24)))
    run(site.root, sys.executable, "-m", "invoke", "snapshot", "bench", env=NO_SPARE)
    execute(site, "ALTER TABLE bench_7 ADD x int")


def diff(site: Site) -> float:
    """Compare; that something has changed is exit code 1."""
    return run(site.root, "sh", "-c", f"{sys.executable} -m invoke diff; test $? = 1")


def schemas_by_hand(site: Site) -> float:
    """Write a schema with pg_dump in the container, twice."""
    dump = f"docker exec {site.settings.project}-postgres pg_dump -s -U postgres -d convex_poc"
    return run(site.root, "sh", "-c", f"{dump} > before.sql && {dump} > after.sql")


def loop(undo: Callable[[Site], object]) -> Measure:
    """Measure a developer who changes something and wants the moment before back, again and again."""

    def measure(site: Site) -> float:
        begun = time.perf_counter()
        for n in range(site.sizes["rounds"]):
            execute(site, f"INSERT INTO bench_state VALUES ({n})", "UPDATE bench_filler SET n = -n WHERE n < 100")
            undo(site)
        seconds = time.perf_counter() - begun
        if execute(site, "SELECT count(*) FROM bench_state") != [0]:
            raise Failed("What was changed was not undone.")
        return seconds

    return measure


def load_again(site: Site) -> None:
    """Undo by loading the dump into a new database."""
    empty(site)
    load_by_hand(site)


def ready_for_the_loop(site: Site) -> None:
    """Prepare all three ways back."""
    saved("loop", spare=True)(site)
    run(site.root, sys.executable, "-m", "invoke", "dump", "bench.dump")


def _at(size: str, runs: int) -> tuple[Row, ...]:
    megabytes = f"{{{size}}} MB"
    snapshot, spare = (0.95, 0.10) if size == "middle" else (None, None)
    return (
        Row(f"snapshot-{size}", f"invoke snapshot, {megabytes}", "postgres", filled(size), clear,
            invoke("snapshot", "bench"), (("dslr snapshot", dslr("snapshot", "bench"), snapshot),), most=runs),
        Row(f"restore-{size}", f"invoke restore, {megabytes}, with a spare", "postgres", saved(size, spare=True),
            lambda site: quiet(site, left=2), invoke("restore", "bench"),
            (("dslr restore", dslr("restore", "bench"), spare),), most=runs),
        Row(f"restore-{size}-no-spare", f"invoke restore, {megabytes}, without", "postgres", saved(size, spare=False),
            lambda site: quiet(site, left=1), invoke("restore", "bench", env=NO_SPARE),
            (("dslr restore", dslr("restore", "bench"), 1.05),), most=runs),
    )  # fmt: skip


ROWS = (
    *_at("small", 5),
    Row("loop", "{rounds} x (change, invoke restore), {loop} MB", "postgres", ready_for_the_loop, nothing,
        loop(invoke("restore", "bench")),
        (("same, dslr restore", loop(dslr("restore", "bench")), None),
         ("same, drop, create, pg_restore -1", loop(load_again), None)), most=1),
    *_at("middle", 5),
    Row("dump", "invoke dump, {middle} MB", "postgres", dumped, nothing,
        invoke("dump", "ours.dump"), (("docker exec … pg_dump -Fc -Z zstd > FILE; sync FILE", dump_by_hand, 1.10),)),
    Row("load", "invoke load, {middle} MB", "postgres", dumped, empty, invoke("load", "bench.dump"),
        (("docker exec -i … pg_restore -1 < FILE", load_by_hand, 1.05),), most=3),
    Row("undo", "invoke undo, after a load of {middle} MB", "postgres", loaded, nothing, invoke("undo"),
        (("a rename by hand", rename_by_hand, None),), most=5),
    Row("diff", "invoke diff, 24 tables", "postgres", changed, nothing, diff,
        (("docker exec … pg_dump -s, twice", schemas_by_hand, 1.3),), times=3),
    Row("load-inserts", "invoke load, {inserts} one-row INSERTs", "postgres", inserts, empty,
        invoke("load", "inserts.sql"),
        (("docker exec -i … psql -1 < FILE", inserts_by_hand, 1.0),), most=3),
    *_at("large", 3),
)  # fmt: skip
