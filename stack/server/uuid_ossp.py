"""The extension uuid-ossp for a PostgreSQL that was built without it: the same functions, in SQL."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from stack.ground import files

CONTROL = """\
comment = 'generate universally unique identifiers (UUIDs)'
default_version = '1.1'
relocatable = true
trusted = true
"""
# Names, arguments and markings are those of PostgreSQL's own (contrib/uuid-ossp/uuid-ossp--1.1.sql). The bodies are
# bound when they are made, so no search_path leads them elsewhere. Versions 3 and 5: RFC 4122, 4.3; version 1: 4.2,
# with a node that is random each time (4.5), as nobody here knows a network card. SHA-1 is in pgcrypto's library only,
# which needs not be installed as an extension for that.
SCRIPT = r"""
\echo Use "CREATE EXTENSION "uuid-ossp"" to load this file. \quit

CREATE FUNCTION uuid_ossp_digest(bytea, text) RETURNS bytea
    AS '$libdir/pgcrypto', 'pg_digest' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION uuid_ossp_of(digest bytea, version int) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN encode(set_byte(set_byte(substr(digest, 1, 16), 6, (get_byte(digest, 6) & 15) | (version << 4)),
        8, (get_byte(digest, 8) & 63) | 128), 'hex')::uuid;

CREATE FUNCTION uuid_ossp_at(ticks bytea, random bytea) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN encode(substr(ticks, 5, 4) || substr(ticks, 3, 2) || set_byte(substr(ticks, 1, 2), 0,
        (get_byte(ticks, 0) & 15) | 16) || substr(random, 9, 2)
        || set_byte(substr(random, 11, 6), 0, get_byte(random, 10) | 1), 'hex')::uuid;

CREATE FUNCTION uuid_nil() RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN '00000000-0000-0000-0000-000000000000'::uuid;

CREATE FUNCTION uuid_ns_dns() RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN '6ba7b810-9dad-11d1-80b4-00c04fd430c8'::uuid;

CREATE FUNCTION uuid_ns_url() RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN '6ba7b811-9dad-11d1-80b4-00c04fd430c8'::uuid;

CREATE FUNCTION uuid_ns_oid() RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN '6ba7b812-9dad-11d1-80b4-00c04fd430c8'::uuid;

CREATE FUNCTION uuid_ns_x500() RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN '6ba7b814-9dad-11d1-80b4-00c04fd430c8'::uuid;

CREATE FUNCTION uuid_generate_v1mc() RETURNS uuid LANGUAGE sql VOLATILE STRICT PARALLEL SAFE
    RETURN uuid_ossp_at(int8send((extract(epoch FROM clock_timestamp()) * 10000000)::bigint + 122192928000000000),
        uuid_send(gen_random_uuid()));

CREATE FUNCTION uuid_generate_v1() RETURNS uuid LANGUAGE sql VOLATILE STRICT PARALLEL SAFE
    RETURN uuid_generate_v1mc();

CREATE FUNCTION uuid_generate_v3(namespace uuid, name text) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN uuid_ossp_of(decode(md5(uuid_send(namespace) || convert_to(name, getdatabaseencoding())), 'hex'), 3);

CREATE FUNCTION uuid_generate_v4() RETURNS uuid LANGUAGE sql VOLATILE STRICT PARALLEL SAFE
    RETURN gen_random_uuid();

CREATE FUNCTION uuid_generate_v5(namespace uuid, name text) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN uuid_ossp_of(uuid_ossp_digest(uuid_send(namespace) || convert_to(name, getdatabaseencoding()), 'sha1'), 5);
""".lstrip()


def add(programs: Path) -> None:
    """Put it beside the other extensions of the PostgreSQL whose programs those are, unless it has one."""
    folder = programs.parent / "share" / "extension"
    if (folder / "uuid-ossp.control").exists() or not folder.is_dir():
        return
    with suppress(OSError):  # another account's: then the extension is not there, as before
        files.write(folder / "uuid-ossp--1.1.sql", lambda stream: stream.write(SCRIPT.encode()), 0o644)
        files.write(folder / "uuid-ossp.control", lambda stream: stream.write(CONTROL.encode()), 0o644)
