"""Checks of the database itself."""

from __future__ import annotations

import time

from stack.doctor.case import Case
from stack.doctor.on_services import names
from stack.engines.checks import Findings, check, failed, ok, skipped, warning
from stack.ground.errors import Refused
from stack.ground.talk import counted, human
from stack.server import pgdata
from stack.verbs import convex_tables, keeper, leases, leftovers, people, spares
from stack.verbs.login import administrator

SKEW = 5.0
"""Seconds that the database's clock may differ; a virtual machine that slept is minutes behind."""
AGEING, OLD = 500_000_000, 1_600_000_000
"""Transactions: autovacuum freezes at 200 million, gives up its manners at 1600 (vacuum_failsafe_age), and at 2100 the
server takes no more writes."""
KEPT_REST = "A dump holds one database: the others, the roles and the snapshots stay in what is kept."


@check("log in", elsewhere=True)
def clock(case: Case) -> Findings:
    """The database's clock agrees with this machine's to 5 seconds.

    Restart Docker, whose virtual machine's clock stands still while the computer sleeps; or set the clock.
    """
    ((theirs,),) = case.rows("SELECT extract(epoch FROM clock_timestamp())::float8")
    off = theirs - time.time()
    if abs(off) > SKEW:
        which = "ahead of" if off > 0 else "behind"
        yield warning(f"The database's clock is {abs(off):.0f} s {which} this machine's.", "Restart Docker.")
    else:
        yield ok("agrees with this machine's")


@check("log in", elsewhere=True)
def connections(case: Case) -> Findings:
    """Fewer than nine in ten of the connections that are not kept for superusers are taken, or of the database's own.

    The message says who has them. Close that program, or `invoke restart postgres`, which ends every session.
    """
    ((name, taken, limit, kept, here, allowed),) = case.rows("""
        SELECT datname, (SELECT count(*) FROM pg_stat_activity
                         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()),
               current_setting('max_connections')::int,
               current_setting('superuser_reserved_connections')::int
               + coalesce(current_setting('reserved_connections', true), '0')::int,  -- since 16
               numbackends, datconnlimit
        FROM pg_database JOIN pg_stat_database USING (datname) WHERE datname = current_database()""")
    cure = "Close that program, or type `invoke restart postgres`, which ends every session."
    if taken * 10 >= (limit - kept) * 9:
        which = f"{taken} of {limit} connections are taken ({kept} are kept for superusers)"
        yield warning(f"{which}{people.holders(case.engine)}.", cure)
    elif 0 <= allowed < here:  # which counts this session
        who = people.holders(case.engine)
        message = (
            f"{name} allows {counted(allowed, 'connection')} (CONNECTION LIMIT), and {here - 1} of them taken{who}."
        )
        yield warning(message, f"{cure} Or change the limit: `ALTER DATABASE … CONNECTION LIMIT -1`.")
    else:
        yield ok(f"{taken} of {limit} are taken, and this one")


@check("log in", elsewhere=True)
def checksums(case: Case) -> Findings:
    """No page that was read had a wrong checksum.

    `invoke dump` what can be read, or take your last dump. The message has the way to a new cluster that keeps the old.
    Doubt the disk.
    """
    if case.rows("SHOW data_checksums") == [("off",)]:
        yield skipped("this cluster was made without checksums")
        return
    query = "SELECT coalesce(datname, 'shared'), checksum_failures FROM pg_stat_database WHERE checksum_failures > 0"
    damaged = [f"{name} ({counted(count, 'time')})" for name, count in case.rows(query)]
    if damaged:
        yield failed(
            f"The disk gave back other data than was written, in {names(damaged)}.",
            "Type `invoke dump` while it can be read, and doubt the disk. A new cluster beside the old one:"
            f" {pgdata.keep(case.home)}, `invoke load FILE` with that dump or your last good one. {KEPT_REST}",
        )
    else:
        yield ok("no failure since the statistics began")


@check("log in", elsewhere=True)
def transaction_ids(case: Case) -> Findings:
    """No database is on its way to run out of transaction ids: its oldest is younger than 500 million.

    `VACUUM (FREEZE)` in that database, after ending what holds it back (long transactions, prepared ones).
    """
    query = "SELECT datname, greatest(age(datfrozenxid), mxid_age(datminmxid)) FROM pg_database ORDER BY 2 DESC LIMIT 1"
    ((name, age),) = case.rows(query)
    if age > AGEING:
        message = f"The oldest transaction of {name} is {age // 10**6} million back; the server stops at 2100 million."
        cure = f"Type `invoke psql -c 'VACUUM (FREEZE)'` for {name}, and end what is in pg_prepared_xacts."
        yield failed(message, cure) if age > OLD else warning(message, cure)
    else:
        yield ok(f"the oldest is {age} transactions back")


@check("log in", elsewhere=True)
def indexes(case: Case) -> Findings:
    """No index is invalid, left behind by a `CREATE INDEX CONCURRENTLY` that failed: it is written and never used.

    `REINDEX INDEX CONCURRENTLY`, or `DROP INDEX`.
    """
    query = """
        SELECT indexrelid::regclass::text FROM pg_index AS i
        WHERE NOT indisvalid AND NOT EXISTS (
            SELECT FROM pg_stat_progress_create_index AS p WHERE p.index_relid = i.indexrelid)"""
    invalid = case.rows(query)
    for (name,) in invalid:
        cure = f"Type `invoke psql -c 'REINDEX INDEX CONCURRENTLY {name}'`, or drop it."
        yield warning(f"The index {name} is invalid: it is written, and never used.", cure)
    if not invalid:
        yield ok("all valid")


@check("log in", elsewhere=True)
def collation(case: Case) -> Findings:
    """The rules that text is sorted by are those that the indexes were made with.

    `REINDEX DATABASE`, then `ALTER DATABASE … REFRESH COLLATION VERSION`, in that database.
    """
    query = """
        SELECT datname, datcollversion, pg_database_collation_actual_version(oid) FROM pg_database
        WHERE datallowconn AND datcollversion <> pg_database_collation_actual_version(oid)"""
    changed = case.rows(query)
    for name, made_with, now in changed:
        quoted = f'"{name}"'
        yield warning(
            f"The text indexes of {name} were made with collation version {made_with}, and the server has {now}: they"
            " may miss rows.",
            f"In it, type `REINDEX DATABASE {quoted}; ALTER DATABASE {quoted} REFRESH COLLATION VERSION`.",
        )
    if not changed:
        yield ok("that of the indexes")


@check("log in", "directories")
def snapshot_room(case: Case) -> Findings:
    """The disk has room for a snapshot, which is a whole copy of the database.

    Drop old snapshots, or make room.
    """
    ((size,),) = case.rows("SELECT pg_database_size(current_database())")
    left = case.data.room(case.home)
    if left is None:
        yield skipped(f"nothing here can look into {case.home}")
    elif size + spares.MARGIN > left:
        message = f"A snapshot would take {human(size)}, and {human(left)} are free."
        yield warning(message, "Type `invoke drop-snapshot NAME` (`invoke snapshots` lists them), or make room.")
    else:
        yield ok(f"a snapshot takes {human(size)} of {human(left)}")


@check("log in", "directories")
def unfinished_copies(case: Case) -> Findings:
    """No copy of the database is left that a dead command has not finished, or that could not be dropped.

    `--fix` drops it, or the message says what is in the way; a database that only is called like one is yours.
    """
    try:
        left = leftovers.left(case.engine)
    except Refused as error:  # it runs with other settings than those of now
        yield skipped(error.what)
        return
    for each in left:
        if each.ours:
            message = f"A copy of the database is left, unfinished or no longer wanted: {each.what}"
            yield warning(message, each.cure, lambda: spares.clear(case.engine))
        else:
            yield warning(each.what, each.cure)
    if not left:
        yield ok("none")


@check("log in", "directories")
def pool(case: Case) -> Findings:
    """The databases that `stack.take()` hands out are made again when they are taken, if there is a pool.

    `--fix` starts what makes them, or the message says what is in its way.
    """
    try:
        with administrator(case.engine, "invoke") as cluster:
            its, there, kept = leases.pool_of(cluster), leases.copies(cluster), leases.is_kept(cluster)
    except Refused as error:  # it runs with other settings than those of now
        yield skipped(error.what)
        return
    ready = sum(each.ready for each in there)
    if its and its.why_not:
        message = f"The pool has {ready} of {its.size} databases ready, and no more can be made: {its.why_not}"
        yield warning(message, "Type `invoke pool` when that is mended, to see them come.")
    elif its and not kept:
        message = f"The pool has {ready} of {its.size} databases ready, and nothing is at work that makes more."
        yield warning(message, "Type `invoke up`.", lambda: keeper.go_on(case.engine))
    else:
        yield ok(f"{ready} of {its.size} databases are ready" if its else "there is none")


@check("log in", "directories")
def convex(case: Case) -> Findings:
    """The database is there in which Convex keeps its tables, where that is in this server.

    `invoke up` makes it, empty; `invoke restore NAME --only convex` brings back what it had.
    """
    own = convex_tables.home(case.engine)
    if not own:
        yield ok("its tables are not in this server" if case.engine.convex else "there is none here")
    elif own in (sizes := dict(case.rows("SELECT datname, pg_database_size(oid) FROM pg_database"))):
        yield ok(f"its tables are in the database {own} ({human(sizes[own])})")
    else:
        yield failed(
            f"There is no database {own!r}, in which Convex keeps its tables.",
            "Type `invoke up`, which makes it, empty; then `invoke restore NAME --only convex` brings back what a"
            " snapshot has of them.",
        )


@check("log in", "directories")
def lost_files(case: Case) -> Findings:
    """No files of a copy lie in the cluster that belong to no database, as when a server was killed while copying.

    They do no harm. The message has the way to have the room back: PostgreSQL itself never deletes them.
    """
    query = """
        SELECT count(*), coalesce(sum((
            SELECT sum((pg_stat_file('base/' || name || '/' || file, true)).size)
            FROM pg_ls_dir('base/' || name, true, false) AS file)), 0)::int8
        FROM pg_ls_dir('base') AS name
        WHERE name ~ '^[0-9]+$' AND NOT EXISTS (SELECT FROM pg_database WHERE oid = name::oid)
          AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE state = 'active' AND query ILIKE '%database%'
                          AND pid <> pg_backend_pid())"""
    ((count, size),) = case.rows(query)
    if count:
        yield warning(
            f"{human(size)} in the cluster belong to no database: the server was killed while it copied one.",
            f"They do no harm. To have the room back: `invoke dump`, {pgdata.keep(case.home)}, `invoke load FILE` with"
            f" that dump; and delete what is kept when nothing is missing. {KEPT_REST}",
        )
    else:
        yield ok("none")
