"""What hands the copies of a pool out: two functions in the database `postgres`, and what tells of the pool there."""

from __future__ import annotations

import json
from itertools import count
from typing import NamedTuple

from stack.ground.errors import Refused
from stack.server.admin import Cluster
from stack.verbs.facts import COMMENT, MARK, read_json
from stack.verbs.store import OURS, POOL

HOME = "postgres"
"""The database in which the functions are. Advisory locks, the leases among them, are those of one database."""
LEASE = 0x57AC1EA5
"""The first key of the advisory lock of whoever has taken a copy; the second is the number of the database."""
KEEPER = 0x57AD
"""The advisory lock of the process that makes and drops the copies."""
CHANNEL = "stack"
"""Where that process hears of what was taken and given back."""
_KEY = "::bigint::bit(32)::int"
"""Makes the key of a lock of a database's number, which may be beyond an int; `pg_locks` shows the number again."""
_LEASED = f"""
    EXISTS (SELECT FROM pg_locks AS l JOIN pg_database AS home ON home.oid = l.database
            WHERE l.locktype = 'advisory' AND home.datname = current_database() AND l.classid = {LEASE}
              AND l.objsubid = 2 AND l.granted AND l.objid = d.oid AND l.mode = 'ExclusiveLock')"""
_KEPT = f"""
    EXISTS (SELECT FROM pg_locks AS l JOIN pg_database AS home ON home.oid = l.database
            WHERE l.locktype = 'advisory' AND home.datname = current_database() AND l.classid = 0
              AND l.objid = {KEEPER} AND l.objsubid = 1 AND l.granted)"""
# A number of `turn` is given out once, whatever becomes of the transaction that drew it: what has come to be used by a
# transaction that was rolled back must not be handed out as new. A crash of the server skips numbers, and repeats none.
# The lock is the lease. The keeper drops nothing without sharing it, so one who draws a number and gets there too late
# finds the lock taken or the name gone, and draws again.
_TAKE = f"""
CREATE OR REPLACE FUNCTION stack.take() RETURNS text LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $stack$
DECLARE
    since timestamptz;
    before bigint;
    drawn bigint;
    pool json;
    name text;
    copy oid;
    taken bigint;
BEGIN
    LOOP
        pool := obj_description('stack'::regnamespace, 'pg_namespace')::json -> 'pool';
        IF pool IS NULL OR current_database() <> '{HOME}' THEN
            RAISE EXCEPTION 'There is no pool of databases.' USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = 'Type `invoke pool SNAPSHOT`; `invoke snapshots` lists them.';
        END IF;
        IF EXISTS (SELECT FROM pg_database, stack.turn WHERE datallowconn AND datconnlimit = {MARK} AND
                   CASE WHEN datname ~ '^{POOL}[1-9][0-9]{{0,17}}$' THEN substr(datname, 12)::bigint > last_value END)
        THEN
            name := '{POOL}' || nextval('stack.turn');
            SELECT oid INTO copy FROM pg_database WHERE datname = name AND datallowconn AND datconnlimit = {MARK};
            IF FOUND AND pg_try_advisory_lock({LEASE}, copy{_KEY}) THEN
                IF EXISTS (SELECT FROM pg_database WHERE oid = copy AND datname = name) THEN
                    PERFORM pg_notify('{CHANNEL}', '');
                    RETURN name;
                END IF;
                PERFORM pg_advisory_unlock({LEASE}, copy{_KEY});
            END IF;
            CONTINUE;
        END IF;
        SELECT last_value INTO drawn FROM stack.turn;
        IF drawn IS DISTINCT FROM before THEN  -- the others get theirs, so it goes on
            before := drawn;
            since := clock_timestamp();
        END IF;
        PERFORM pg_sleep(0.01);
        -- What has just ended is there a moment longer, and what has just begun is not yet.
        CONTINUE WHEN clock_timestamp() < since + interval '3 s';
        SELECT count(*) INTO taken FROM pg_database AS d WHERE {_LEASED};
        IF taken >= (pool ->> 'size')::bigint THEN
            RAISE EXCEPTION 'All % databases of the pool are taken.', taken
                USING ERRCODE = 'object_not_in_prerequisite_state', HINT = format('End a session that has taken one, '
                    'or give one back with SELECT stack.give(name); or type `invoke pool %s --size %s`.',
                    pool ->> 'typed', 2 * taken);
        ELSIF pool ->> 'why_not' <> '' THEN
            RAISE EXCEPTION 'No database of the pool is ready: %', pool ->> 'why_not'
                USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Type `invoke pool`.';
        ELSIF NOT {_KEPT} THEN
            RAISE EXCEPTION 'No database of the pool is ready, and nothing is at work that makes one.'
                USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Type `invoke up`. In a copy that was made'
                    ' without snapshots, `invoke drop-pool` ends the pool, which has none to copy.';
        ELSIF clock_timestamp() > since + interval '60 s' THEN
            RAISE EXCEPTION 'No database of the pool has become ready within 60 s.'
                USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Type `invoke pool`, which shows them.';
        END IF;
    END LOOP;
END $stack$"""  # noqa: S608
_GIVE = f"""
CREATE OR REPLACE FUNCTION stack.give(name text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $stack$
DECLARE
    copy constant oid := (SELECT oid FROM pg_database WHERE datname = $1);
BEGIN
    IF NOT EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND classid = {LEASE}
                   AND objsubid = 2 AND objid = copy) THEN
        RAISE EXCEPTION 'This session has not taken the database %.', quote_ident(coalesce($1, ''))
            USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'The session that took it gives it back: with stack.give(name), or with its end.';
    END IF;
    PERFORM pg_advisory_unlock({LEASE}, copy{_KEY});
    PERFORM pg_notify('{CHANNEL}', '');
END $stack$"""  # noqa: S608


class Pool(NamedTuple):
    """What copies are kept of, and how many."""

    of: str
    """The digits of the snapshot."""
    typed: str
    """What it is called, as that is typed after a command."""
    size: int
    """How many copies there are at most, ready and handed out."""
    why_not: str = ""
    """Why none can be made, at the last try."""


class Copy(NamedTuple):
    """One copy of a pool."""

    name: str
    oid: int
    ready: bool
    """Whether it is yet to be handed out."""
    leased: bool
    """Whether the session that took it is there, and has not given it back."""


def check(cluster: Cluster) -> None:
    """Raise Refused where no functions of ours can be, or others are."""
    if cluster.configured == HOME:
        raise Refused(
            f"A pool is handed out in the database {HOME}, which is the one that POSTGRES_DB names here, and `restore`"
            " would put another in its place. Nothing was done. Set another POSTGRES_DB, or use `invoke fork`."
        )
    if cluster.connection.info.dbname != HOME:
        raise Refused(
            f"A pool is handed out in the database {HOME}, and there is none. Nothing was done."
            f" Type `invoke psql -c 'CREATE DATABASE {HOME}'`."
        )
    if _is_there(cluster) and not (_told(cluster) or "").startswith(COMMENT):
        raise Refused(
            f"There is a schema stack in the database {HOME} that is not ours, so nothing was done. To keep it and have"
            f" it out of the way, type `invoke psql -- -d {HOME} -c 'ALTER SCHEMA stack RENAME TO another_name'`."
        )


def _is_there(cluster: Cluster) -> bool:
    return bool(cluster.rows("SELECT FROM pg_namespace WHERE nspname = 'stack'"))


def _told(cluster: Cluster) -> str | None:
    query = "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = 'stack'"
    return next((row[0] for row in cluster.rows(query)), None)


def pool_of(cluster: Cluster) -> Pool | None:
    """Return what the pool is of; None when there is none."""
    if cluster.connection.info.dbname != HOME or cluster.configured == HOME:
        return None
    told = read_json(_told(cluster)).get("pool")
    kinds = {"of": str, "typed": str, "size": int, "why_not": str}
    if not isinstance(told, dict) or {name: type(value) for name, value in told.items()} != kinds:
        return None
    return Pool(**told)


def tell(cluster: Cluster, pool: Pool | None) -> None:
    """Write down what the pool is of, or that there is none."""
    from psycopg import sql

    told = {"stack": 2, **({"pool": pool._asdict()} if pool else {})}
    cluster.connection.execute(sql.SQL("COMMENT ON SCHEMA stack IS {}").format(sql.Literal(json.dumps(told))))
    cluster.rows("SELECT pg_notify(%s, '')", CHANNEL)


def begin(cluster: Cluster, pool: Pool) -> None:
    """Let there be a pool in the place of the one before. To be called by who makes and drops our databases."""
    check(cluster)
    before = pool_of(cluster)
    with cluster.transaction():
        new = not _is_there(cluster)
        if new:
            cluster.run("CREATE SCHEMA stack")
            cluster.run("CREATE SEQUENCE stack.turn")
            cluster.rows("SELECT nextval('stack.turn')")
        cluster.connection.execute(f"{_TAKE};{_GIVE}".encode())  # perhaps an earlier version of ours made them
        if new:  # PostgreSQL lets everybody call a new function; a role is to be let in by name
            cluster.run("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA stack FROM PUBLIC")
        if not before or before.of != pool.of:
            use_up(cluster)
        tell(cluster, pool)


def end(cluster: Cluster, snapshot: str = "") -> bool:
    """End the pool, or that of a snapshot alone, within a transaction or without; return whether there was one."""
    pool = pool_of(cluster)
    if not pool or snapshot not in ("", pool.of):
        return False
    tell(cluster, None)
    return True


def in_use(cluster: Cluster) -> bool:
    """Whether there is anything for a keeper to do."""
    return bool(pool_of(cluster) or copies(cluster))


def copies(cluster: Cluster) -> list[Copy]:
    """Return the copies that are ready, handed out, or to be dropped."""
    if cluster.connection.info.dbname != HOME:
        return []
    ready = f"substr(datname, {len(POOL) + 1})::bigint > (SELECT last_value FROM stack.turn)"  # noqa: S608
    if not cluster.rows("SELECT WHERE to_regclass('stack.turn') IS NOT NULL"):
        ready = "false"  # somebody has dropped our schema
    rows = cluster.connection.execute(
        f"""
        SELECT datname, oid, {ready}, {_LEASED} FROM pg_database AS d
        WHERE starts_with(datname, '{POOL}') AND datname ~ '{OURS}'
          AND (datconnlimit = {MARK} OR starts_with(shobj_description(oid, 'pg_database'), '{COMMENT}'))
        ORDER BY length(datname), datname
        """.encode()  # noqa: S608
    ).fetchall()
    return [Copy(*row) for row in rows]


def use_up(cluster: Cluster) -> None:
    """See to it that no copy of now is handed out."""
    while ready := sum(each.ready for each in copies(cluster)):
        cluster.rows("SELECT nextval('stack.turn') FROM generate_series(1, %s)", ready)


def free_name(cluster: Cluster) -> str:
    """Return the name that the next copy is to have, which is ready when it has it."""
    there = [int(each.name[len(POOL) :]) for each in copies(cluster)]
    ((last,),) = cluster.rows("SELECT last_value FROM stack.turn")
    names = (f"{POOL}{number}" for number in count(max(last, *there, 0) + 1))
    return next(name for name in names if cluster.oid(name) is None)


def claim(cluster: Cluster, copy: Copy) -> bool:
    """Whether nobody has a copy; nobody will, as long as this session lasts."""
    query = f"SELECT pg_try_advisory_lock_shared({LEASE}, %s::oid{_KEY})"
    return bool(cluster.connection.execute(query.encode(), [copy.oid]).fetchall()[0][0])


def is_kept(cluster: Cluster) -> bool:
    """Whether a keeper is at work."""
    return bool(cluster.connection.execute(f"SELECT {_KEPT}".encode()).fetchall()[0][0])
