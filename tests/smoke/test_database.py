"""The database that runs is the one that was promised."""

import os

import psycopg
import pytest
from psycopg.types.json import Jsonb

from stack.engines.base import Engine, need
from tests.smoke.conftest import Connection


def value(db: Connection, query: str, *parameters: object) -> object:
    row = db.execute(query.encode(), parameters or None).fetchone()
    assert row
    return row[0]


@pytest.fixture
def ours(engine: Engine) -> None:
    """A server that we have made."""
    if engine.name == "external":
        pytest.skip("how a server is made that runs elsewhere is up to those who run it")


@pytest.mark.usefixtures("ours")
def test_it_is_postgresql_17(db: Connection) -> None:
    assert db.info.server_version // 10000 == 17


def test_the_connection_string_leads_to_the_configured_database_and_user(db: Connection, engine: Engine) -> None:
    endpoint = engine.endpoint()
    assert endpoint
    assert (value(db, "SELECT current_database()"), value(db, "SELECT current_user")) == (
        endpoint.database,
        endpoint.user,
    )


@pytest.mark.usefixtures("ours")
def test_a_wrong_password_is_refused(url: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url, password="not the password", connect_timeout=5)


@pytest.mark.usefixtures("ours")
def test_passwords_are_scram(db: Connection) -> None:
    assert value(db, "SHOW password_encryption") == "scram-sha-256"
    assert str(value(db, "SELECT rolpassword FROM pg_authid WHERE rolname = current_user")).startswith("SCRAM-SHA-256$")


def test_text_is_utf_8(db: Connection) -> None:
    assert value(db, "SHOW server_encoding") == "UTF8"
    assert value(db, "SELECT %s::text", "żółć 🐘 日本語") == "żółć 🐘 日本語"


@pytest.mark.usefixtures("ours")
def test_text_does_not_depend_on_the_c_library(db: Connection) -> None:
    provider = db.execute(
        "SELECT datlocprovider, datlocale FROM pg_database WHERE datname = current_database()"
    ).fetchone()
    assert provider == ("b", "C.UTF-8")
    assert value(db, "SELECT upper('é')") == "É"


@pytest.mark.usefixtures("ours")
def test_pages_carry_checksums(db: Connection) -> None:
    assert value(db, "SHOW data_checksums") == "on"
    assert value(db, "SELECT coalesce(sum(checksum_failures), 0)::int FROM pg_stat_database") == 0


def test_jsonb_arrays_enums_and_identity_columns_work(db: Connection) -> None:
    db.execute("CREATE TYPE mood AS ENUM ('calm', 'busy')")
    db.execute(
        "CREATE TABLE thing (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, doc jsonb, tags text[], mood mood)"
    )
    document = {"name": "ä", "list": [1, None, {"deep": True}]}
    db.execute("INSERT INTO thing (doc, tags, mood) VALUES (%s, %s, 'busy')", (Jsonb(document), ["a", "b,c", ""]))
    assert db.execute("SELECT id, doc, tags, mood::text FROM thing").fetchall() == [
        (1, document, ["a", "b,c", ""], "busy")
    ]
    assert value(db, "SELECT doc #> '{list,2,deep}' FROM thing WHERE doc @> %s", Jsonb({"name": "ä"})) is True
    with pytest.raises(psycopg.errors.GeneratedAlways):
        db.execute("INSERT INTO thing (id) VALUES (7)")
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        db.execute("INSERT INTO thing (mood) VALUES ('angry')")


def test_a_transaction_is_all_or_nothing(db: Connection) -> None:
    db.execute("CREATE TABLE ledger (amount int CHECK (amount > 0))")
    with pytest.raises(psycopg.errors.CheckViolation):  # noqa: SIM117, PT012 - the second INSERT ends both
        with db.transaction():
            db.execute("INSERT INTO ledger VALUES (1)")
            db.execute("INSERT INTO ledger VALUES (-1)")
    assert value(db, "SELECT count(*) FROM ledger") == 0
    with db.transaction():
        db.execute("INSERT INTO ledger VALUES (1)")
    assert value(db, "SELECT count(*) FROM ledger") == 1


def test_commits_reach_the_disk_and_the_disk_is_the_mounted_directory(db: Connection, engine: Engine) -> None:
    if engine.name != "docker":
        pytest.skip(f"the {engine.name} engine mounts nothing")
    assert (value(db, "SHOW fsync"), value(db, "SHOW synchronous_commit")) == ("on", "on")
    directory = value(db, "SHOW data_directory")
    mounts = str(value(db, "SELECT pg_read_file('/proc/self/mountinfo')")).splitlines()
    (mount,) = [line.split() for line in mounts if line.split()[4] == directory]
    device, root, filesystem = mount[2], mount[3], mount[mount.index("-") + 1]
    assert root.endswith(f"/data/{need(engine.data, engine).place().name}")
    own = (engine.root / "data").stat().st_dev  # of a checkout that lies in memory, or in a container itself
    assert filesystem not in ("overlay", "tmpfs") or device == f"{os.major(own)}:{os.minor(own)}"
