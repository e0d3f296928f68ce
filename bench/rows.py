"""What is measured, against what, and how much slower it may be."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import psycopg

from bench.sites import Failed, Site, run
from stack.engines.docker.engine import Docker
from stack.engines.embedded import rights
from stack.engines.embedded.engine import Embedded

Measure = Callable[[Site], float]
"""Does the thing once and returns the seconds that it took."""
UP = ("up", "--detach", "--wait")


class Row(NamedTuple):
    """One of our commands, and what a user would type without this repository."""

    name: str
    what: str
    site: str
    once: Callable[[Site], object]
    """Prepares the site, before the first measurement."""
    each: Callable[[Site], object]
    """Brings it into the state in which every measurement begins."""
    ours: Measure
    baselines: tuple[tuple[str, Measure, float | None], ...]
    """Each with the ratio ours / baseline that is good enough; None only shows it."""
    times: int = 1
    """Short commands run this many times as often."""
    most: int = 100
    """Long ones run at most this often."""


def clean(site: Site) -> None:
    """Stop, and delete all data."""
    site.compose("down")
    site.as_root("rm -rf pg convex")
    os.sync()  # what is still to be written is not the next measurement's cost


def stop(site: Site) -> None:
    """Stop, with a clean shutdown of the cluster."""
    site.compose("down")
    os.sync()


def table(site: Site) -> None:
    """Start with a table, and a file of INSERT statements for it."""
    site.compose(*UP)
    site.sql("CREATE TABLE IF NOT EXISTS bench_rows (id int, name text)")
    lines = (f"INSERT INTO bench_rows VALUES ({n}, 'row {n}');\n" for n in range(site.sizes["inserts"]))
    # Each statement commits by itself; waiting for the disk each time would hide what the pipe costs.
    (site.root / "inserts.sql").write_text("SET synchronous_commit = off;\n" + "".join(lines))


def big(site: Site) -> None:
    """Keep a copy of a cluster with a big table: four rows a page, too short to be compressed, and without WAL."""
    clean(site)
    site.compose(*UP)
    rows = f"SELECT repeat(md5(n::text), 60) AS filler FROM generate_series(1, {site.sizes['megabytes'] * 512}) n"
    site.sql(f"CREATE UNLOGGED TABLE bench_filler AS {rows}")
    site.compose("down")
    site.as_root("cp -a pg big")


def start_big(site: Site) -> None:
    """Start with a copy of it."""
    site.as_root("rm -rf pg; cp -a big pg")
    site.compose(*UP)
    os.sync()


def floor(site: Site) -> float:
    """Start the image with plain `docker run` until the host gets the answer to SELECT 1."""
    name, its, port = f"{site.settings.project}-floor", site.settings, site.settings.ports["POSTGRES_PORT"]
    initdb = "--locale-provider=builtin --builtin-locale=C.UTF-8 --data-checksums"
    start = time.perf_counter()
    run(site.root, "docker", "run", "--detach", "--pull=never", f"--name={name}", f"--publish=127.0.0.1:{port}:5432",
        f"--volume={site.root}/data/pg:/var/lib/postgresql/data", f"--env=POSTGRES_INITDB_ARGS={initdb}",
        f"--env=POSTGRES_PASSWORD={its.password}", f"--env=POSTGRES_DB={its.database}", site.image)  # fmt: skip
    login = f"host=127.0.0.1 port={port} user={its.user} password={its.password} dbname={its.database}"
    while True:
        try:
            with psycopg.connect(login) as connection:
                connection.execute("SELECT 1")
            break
        except psycopg.OperationalError as error:
            if time.perf_counter() - start > 120:
                raise Failed(f"{name} did not answer within 120 s: {error}") from None
            time.sleep(0.01)
    seconds = time.perf_counter() - start
    run(site.root, "docker", "stop", name)
    run(site.root, "docker", "rm", name)
    return seconds


def by_hand(site: Site) -> float:
    """Start over without our help."""
    return site.compose("down") + site.as_root("rm -rf pg")


def hand(site: Site, *args: str) -> float:
    """Run pg_ctl on a cluster of its own, beside that of the engine."""
    where, port = site.root / "data" / "hand", site.settings.ports["POSTGRES_PORT"]
    options = f"-c port={port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='{where}'"
    pg_ctl = [f"{site.settings.bin_dir}/pg_ctl", "-D", str(where), "-w", "-l", str(where / "log"), "-o", options, *args]
    return by_account(site, pg_ctl)


def by_account(site: Site, argv: list[str]) -> float:
    """Run a program of PostgreSQL's as whom the engine runs the server, and return the seconds that it took."""
    account = Embedded(site.settings, site.root).home.account
    way = rights.way(account, site.root / "data" / "hand", Path(site.settings.bin_dir).resolve())
    return run(site.root, *way.prefix, *argv, env=way.env, rights=way.rights)


def both_stopped(site: Site) -> None:
    """Stop the engine's server, and that of the hand-made cluster."""
    run(site.root, sys.executable, "-m", "invoke", "down")
    if (site.root / "data" / "hand" / "postmaster.pid").exists():
        hand(site, "stop", "-m", "fast")
    os.sync()


def neither(site: Site) -> None:
    """Stop both, and delete both clusters."""
    both_stopped(site)
    run(site.root / "data", "rm", "-rf", "embedded", "hand")


def both_made(site: Site) -> None:
    """Make both clusters."""
    neither(site)
    initdb_by_hand(site)
    both_stopped(site)
    run(site.root, sys.executable, "-m", "invoke", "up")


def initdb_by_hand(site: Site) -> float:
    """Make a cluster with the same options, and start it."""
    engine, where, password = Embedded(site.settings, site.root), site.root / "data" / "hand", site.root / "password"
    password.write_text(f"{site.settings.password}\n")
    where.mkdir()
    if engine.home.account:
        for path in (where, password):
            os.chown(path, engine.home.account.uid, engine.home.account.gid)
    return by_account(site, engine.home.initdb(where, password)) + hand(site, "start")


def reset(site: Site) -> None:
    """Start over once with a seed, which keeps what it makes."""
    (site.root / "seed").mkdir(exist_ok=True)
    rows = "INSERT INTO bench_rows SELECT n, 'row ' || n FROM generate_series(1, 100000) AS n"
    (site.root / "seed" / "010.sql").write_text(f"CREATE TABLE bench_rows (id int, name text);\n{rows};\n")
    invoke("reset", "--yes")(site)


def kept(site: Site) -> None:
    """Wait until the background has made the copy that the next one takes."""
    deadline = time.monotonic() + 120
    while not list((site.root / "data").glob(".after-reset-*-next")):
        if time.monotonic() > deadline:
            raise Failed("The background did not make the copy for the next reset within 120 s.")
        time.sleep(0.1)
    os.sync()


def reset_again(site: Site) -> float:
    """Start over once more; what the background does after it is neither measured nor cut off."""
    seconds = invoke("reset", "--yes")(site)
    kept(site)
    return seconds


def down_and_up(site: Site) -> float:
    """Stop and start, which keeps all data."""
    return sum(invoke(word)(site) for word in ("down", "up"))


def nothing(_site: Site) -> None:
    """Leave it as it is."""


def invoke(*args: str, stdin: str = os.devnull, env: Mapping[str, str] | None = None) -> Measure:
    """Measure a task."""
    return lambda site: run(site.root, sys.executable, "-m", "invoke", *args, stdin=stdin, env=env)


def compose(*args: str, layers: tuple[str, ...] = ("dev",)) -> Measure:
    """Measure a Compose command on the files that the tasks give it."""
    return lambda site: site.compose(*args, layers=layers)


def preflight(site: Site) -> float:
    """Look for what would fail a start, as `invoke up` does before it; the list of containers it needs anyway."""
    engine = Docker(site.settings, site.root)
    rows = engine.containers.rows()
    start = time.perf_counter()
    engine.containers.check_machine()
    engine.data.others.on(engine.plan.guarded(), rows, starting=True)
    engine.preflight._foresee(rows, None)
    return time.perf_counter() - start


PSQL = ("psql", "-U", "postgres", "-d", "convex_poc")
STARTS = (
    ("docker compose up -d --wait", compose(*UP), 0.85),
    ("same, interval {interval} s, no start_interval", compose(*UP, layers=("dev", "slow")), 0.25),
    ("docker run to the first SELECT 1: the floor", floor, None),
)
ROWS = (
    Row("up-empty", "invoke up, PostgreSQL alone, empty", "postgres", nothing, clean, invoke("up"), STARTS),
    Row("up-data", "invoke up, PostgreSQL alone, with data", "postgres", compose(*UP), stop, invoke("up"), STARTS),
    Row("preflight", "what invoke up looks for before it starts", "postgres", compose(*UP), stop, preflight,
        (("invoke up, PostgreSQL alone, with data", invoke("up"), 0.15),)),
    Row("up-again", "invoke up, everything is up", "all", compose(*UP), nothing, invoke("up"),
        (("docker compose up -d --wait", compose(*UP), 1.3),), times=3),
    Row("psql", "invoke psql -c 'select 1'", "all", compose(*UP), nothing, invoke("psql", "-c", "select 1"),
        (("docker compose exec -T postgres psql … -c 'select 1'",
          compose("exec", "-T", "postgres", *PSQL, "-c", "select 1"), 1.3),), times=3),
    Row("inserts", "invoke psql < {inserts} INSERTs, synchronous_commit off", "all", table,
        lambda site: site.sql("TRUNCATE bench_rows", "CHECKPOINT"), invoke("psql", stdin="inserts.sql"),
        (("docker exec -i CONTAINER psql … < the same",
          lambda site: run(site.root, "docker", "exec", "-i", f"{site.settings.project}-postgres", *PSQL, "-v",
                           "ON_ERROR_STOP=1", stdin="inserts.sql"), 1.05),)),
    Row("list", "invoke --list", "all", nothing, nothing, invoke("--list"),
        (("same, a tasks.py with one empty task",
          lambda site: run(site.root / "bare", sys.executable, "-m", "invoke", "--list"), 1.2),), times=3),
    Row("down", "invoke down, all services", "all", nothing, compose(*UP), invoke("down"),
        (("docker compose down", compose("down"), None),)),
    Row("reset-data", "invoke reset-data --yes, PostgreSQL, {megabytes} MB", "postgres", big, start_big,
        invoke("reset-data", "--yes"), (("docker compose down; rm -rf as root", by_hand, None),)),
    Row("reset", "invoke reset --yes, all services, once more with the same seed", "all", reset, kept,
        reset_again, (("invoke down, invoke up", down_and_up, 1.3),)),
    Row("embedded-reset", "invoke reset --yes, no Docker, once more with the same seed", "embedded", reset, kept,
        reset_again, (("invoke down, invoke up", down_and_up, 1.3),)),
    Row("embedded-empty", "invoke up, no Docker, empty", "embedded", nothing, neither, invoke("up"),
        (("initdb and pg_ctl -w start by hand", initdb_by_hand, 1.3),)),
    Row("embedded-data", "invoke up, no Docker, with data", "embedded", both_made, both_stopped, invoke("up"),
        (("pg_ctl -w start", lambda site: hand(site, "start"), 2),)),
)  # fmt: skip
