"""What an administrator's session asks a server, and how it is set so that it does not end half-way."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import LiteralString

SETTINGS = ("statement_timeout=0", "lock_timeout=0", "idle_in_transaction_session_timeout=0", "transaction_timeout=0",
             "default_transaction_read_only=off", "client_min_messages=error")  # fmt: skip
"""Against what a user may have set for all sessions: ours must not end half-way."""
SHUT = 0.3
"""Seconds that the logins to all databases may wait while the sessions on one end."""
INSIDE: LiteralString = """
SELECT pid, true FROM pg_stat_get_activity(NULL) WHERE datid = %s::oid
UNION
SELECT l.pid, a.pid IS NULL FROM pg_locks AS l LEFT JOIN pg_stat_get_activity(NULL) AS a USING (pid)
WHERE l.classid = 'pg_database'::regclass AND l.objid = %s::oid AND l.granted AND l.pid <> pg_backend_pid()
"""
"""Who is in a database, and who holds a lock on it and is to be ended: not an administrator from elsewhere, but whoever
has read its name in a login that cannot go on. The view pg_stat_activity would read pg_database."""
SESSIONS = "FROM pg_stat_activity WHERE datid = %s::oid AND pid <> pg_backend_pid()"
WRITES: LiteralString = (
    "SELECT tup_inserted, tup_updated, tup_deleted, stats_reset FROM pg_stat_database WHERE datid = %s::oid"
)
HELD: LiteralString = """
SELECT FROM pg_locks WHERE pid = %s AND granted AND locktype = 'object' AND classid = 'pg_database'::regclass
  AND objid = %s::oid AND mode = 'ShareLock'
  AND NOT EXISTS (SELECT FROM pg_stat_get_activity(NULL) WHERE datid = objid)"""
"""Whether a session that copies a database has locked it, and nobody is in it: until it is copied nobody writes."""
GOT_IN: LiteralString = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datid = %s::oid"
TOO_LONG: LiteralString = """
SELECT pg_terminate_backend(l.pid) FROM pg_locks AS l JOIN pg_locks AS h USING (locktype, classid, objid)
WHERE l.locktype = 'object' AND classid = 'pg_database'::regclass AND NOT l.granted AND h.granted AND h.pid = %s
      AND l.waitstart < now() - make_interval(secs => %s) AND h.mode = 'AccessExclusiveLock'"""
STUCK: LiteralString = """
SELECT query, pid FROM pg_stat_activity
WHERE datname = %s AND state_change < now() - interval '2 s' AND %s = ANY (pg_blocking_pids(pid))"""
