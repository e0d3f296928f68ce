"""Every kind of file that comes in and goes out, on each engine: archives, compression, encodings, pipes."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stack.ground import settings
from stack.server.programs import server_programs
from tests.integration.checkout import (
    configure,
    containers,
    docker,
    fail,
    images,
    run,
    sql,
    succeed,
    tables,
    unique,
    value,
)
from tests.integration.conftest import copy_for
from tests.integration.terminal import Terminal
from tests.integration.test_dumps import shell

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FACTS = """
SELECT array[(SELECT count(*)::text || sum(n) FROM kept), (SELECT string_agg(encode(lo_get(oid), 'escape'), ',')
    FROM pg_largeobject_metadata), current_setting('search_path'), current_setting('my.words', true),
    (SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()),
    (SELECT datconnlimit FROM pg_database WHERE datname = current_database())::text,
    has_database_privilege('reader', current_database(), 'TEMP')::text]::text
"""
OWN = (
    "ALTER DATABASE convex_poc SET search_path TO odd, public",
    "ALTER DATABASE convex_poc SET my.words TO E'it''s \\\\ ON DATABASE convex_poc;\n ALTER DATABASE convex_poc'",
    "COMMENT ON DATABASE convex_poc IS 'ours; it''s ON DATABASE convex_poc'",
    "ALTER DATABASE convex_poc CONNECTION LIMIT 90",
    "REVOKE TEMP ON DATABASE convex_poc FROM PUBLIC",
    "GRANT TEMP ON DATABASE convex_poc TO reader",
)
BARE = (
    "ALTER DATABASE convex_poc RESET ALL",
    "COMMENT ON DATABASE convex_poc IS NULL",
    "ALTER DATABASE convex_poc CONNECTION LIMIT -1",
    "REVOKE ALL ON DATABASE convex_poc FROM reader",
)


@pytest.fixture(scope="module", params=["docker", "embedded"])
def up(request: pytest.FixtureRequest, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A stack on each engine, that the tests share."""
    with copy_for(request.param, template, tmp_path_factory.mktemp("formats") / unique()) as made:
        succeed(made, "up")
        sql(made, "CREATE ROLE reader")
        yield made
        run(made, "down")


@pytest.fixture
def empty(up: Path) -> Path:
    """Its database with nothing in it."""
    wipe(up)
    shutil.rmtree(up / "seed")
    (up / "seed").mkdir()
    return up


def wipe(copy: Path) -> None:
    sql(copy, "DROP SCHEMA IF EXISTS odd CASCADE")
    for name in sql(copy, "SELECT extname FROM pg_extension WHERE extname <> 'plpgsql'"):
        sql(copy, f'DROP EXTENSION "{name}" CASCADE')
    for name in tables(copy):
        sql(copy, f"DROP TABLE {name} CASCADE")
    sql(copy, "SELECT lo_unlink(oid) FROM pg_largeobject_metadata")
    for statement in BARE:
        sql(copy, statement)


@pytest.fixture
def filled(empty: Path) -> Path:
    """The same with rows, large objects, and settings of the database's own."""
    sql(empty, "CREATE TABLE kept AS SELECT generate_series(1, 20000) AS n")
    sql(empty, "CREATE TABLE b AS SELECT repeat('x', 100000) AS big; CREATE TABLE a (n int)")
    sql(empty, "SELECT lo_from_bytea(0, 'one'), lo_from_bytea(0, 'two')")
    for statement in OWN:
        sql(empty, statement)
    return empty


def pg_dump(copy: Path, *options: str) -> None:
    """Run a pg_dump that is not the stack's."""
    user, password, port = (value(copy, f"POSTGRES_{name}") for name in ("USER", "PASSWORD", "PORT"))
    url = f"postgresql://{user}:{password}@127.0.0.1:{port}/{value(copy, 'POSTGRES_DB')}"
    program = server_programs(settings.ROOT) / "pg_dump"
    subprocess.run([program, "-d", url, *options], check=True, cwd=copy)


def comes_back(copy: Path, file: str, facts: list[Any]) -> None:
    wipe(copy)
    assert succeed(copy, "load", file) == ""
    assert sql(copy, FACTS) == facts, file


# -- archives -------------------------------------------------------------------------------------------------


def test_every_format_of_pg_dump_comes_back_with_the_settings_of_the_database(filled: Path) -> None:
    facts = sql(filled, FACTS)
    assert "ours; it's" in facts[0]
    pg_dump(filled, "-Fc", "-f", "x.dump")
    pg_dump(filled, "-Ft", "-f", "x.tar")
    for name, options in (("x.d", ()), ("x.plain.d", ("-Z0",)), ("x.zst.d", ("-Zzstd", "-j2"))):
        pg_dump(filled, "-Fd", "-f", name, *options)
    content = (filled / "x.dump").read_bytes()
    (filled / "x.tar.gz").write_bytes(gzip.compress((filled / "x.tar").read_bytes()))
    (filled / "x.dump.bz2").write_bytes(bz2.compress(content))
    with zipfile.ZipFile(filled / "x.dump.zip", "w") as archive:
        archive.writestr("some folder/x.dump", content)
    for name in ("x.dump", "x.tar", "x.d", "x.plain.d", "x.zst.d", "x.tar.gz", "x.dump.bz2", "x.dump.zip"):
        comes_back(filled, name, facts)
    (filled / "x.d" / "toc.dat").rename(filled / "x.d" / "toc")
    fail(filled, 2, "load", "x.d", saying=("x.d cannot be read: it is a directory",))
    next((filled / "x.plain.d").glob("*.dat")).unlink()
    wipe(filled)
    fail(filled, 1, "load", "x.plain.d", saying=("x.plain.d is no whole dump: its file", "is missing"))
    assert tables(filled) == []
    tar = (filled / "x.tar").read_bytes()
    for part in (0.3, 0.7):
        (filled / "cut.tar").write_bytes(tar[: int(tar.index(b"restore.sql") * part)])
        for more in ((), ("--clean", "--yes")):
            sql(filled, "CREATE TABLE IF NOT EXISTS mine ()" if more else "DROP TABLE IF EXISTS mine")
            fail(filled, 1, "load", "cut.tar", *more, saying=("cut off or damaged",))
            assert tables(filled) == ["mine"] * bool(more)


def test_a_dump_is_what_its_name_says_and_comes_back(filled: Path) -> None:
    facts = sql(filled, FACTS)
    for name in ("o.sql", "o.SQL.gz", "o.sql.zst", "o.tar", "o.dump", "o"):
        succeed(filled, "dump", name)
    begins = {
        name: (filled / name).read_bytes()[:7] for name in ("o.sql", "o.SQL.gz", "o.sql.zst", "o.tar", "o.dump", "o")
    }
    assert begins["o.sql"] == b"--\n-- P"
    assert begins["o.SQL.gz"].startswith(b"\x1f\x8b")
    assert begins["o.sql.zst"].startswith(b"\x28\xb5\x2f\xfd")
    assert begins["o.tar"] == b"toc.dat"
    assert begins["o.dump"][:5] == begins["o"][:5] == b"PGDMP"
    assert gzip.decompress((filled / "o.SQL.gz").read_bytes()).endswith(b"\n")
    for name in begins:
        comes_back(filled, name, facts)
    # The same through psql, into a database of another name.
    succeed(filled, "psql", "-c", "CREATE DATABASE beside")
    try:
        succeed(filled, "psql", stdin="\\c beside\n" + (filled / "o.sql").read_text())
        other = [str(fact).replace("convex_poc", "beside") for fact in facts]
        assert len(sql(filled, FACTS, dbname="beside")) == len(other)
        assert sql(filled, "SHOW search_path", dbname="beside") == ["odd, public"]
    finally:
        sql(filled, "DROP DATABASE beside")


@pytest.mark.parametrize("name", ["o.sql.xz", "o.sql.zip", "o.tar.gz", "o.tgz", "it's.zip"])
def test_a_name_that_would_not_be_true_is_refused_with_two_that_are(filled: Path, tmp_path: Path, name: str) -> None:
    said = fail(filled, 2, "dump", str(tmp_path / name), saying=("is not written here", "Nothing was done"))
    assert list(tmp_path.iterdir()) == []
    for command in re.findall("`(invoke dump [^`]*)`", said):
        assert shell(filled, command).returncode == 0
    assert sorted("".join(path.suffixes) for path in tmp_path.iterdir()) == [".dump", ".sql.zst"]


def test_a_dump_without_a_name_goes_where_stdout_was_sent(filled: Path) -> None:
    facts = sql(filled, FACTS)
    for line, said in (
        ("invoke dump > s1", "stdout is a file, so the dump goes there"),
        ("invoke dump | cat > s2", "stdout is a pipe, so the dump goes there"),
    ):
        done = shell(filled, line)
        assert done.returncode == 0
        assert said in done.stderr
    assert not (filled / "backups").exists()
    assert "Wrote " in shell(filled, "invoke dump > /dev/null").stderr
    (made,) = (filled / "backups").iterdir()
    for name in ("s1", "s2", str(made)):
        comes_back(filled, name, facts)
    shutil.rmtree(filled / "backups")


def test_settings_that_name_a_missing_role_are_told_and_the_rest_comes(filled: Path) -> None:
    succeed(filled, "dump", "x.dump")
    wipe(filled)
    sql(filled, "DROP ROLE reader")
    try:
        assert run(filled, "load", "x.dump").returncode == 0
        assert sql(filled, "SHOW search_path") == ["odd, public"]
    finally:
        sql(filled, "DO $$ BEGIN CREATE ROLE reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$")


# -- pipes ----------------------------------------------------------------------------------------------------


def test_what_cannot_be_sought_in_is_loaded(empty: Path) -> None:
    text = "CREATE TABLE kept (n int);\nINSERT INTO kept SELECT generate_series(1, 1000);\n" + "-- more\n" * 20_000
    (empty / "x.sql").write_text(text)
    (empty / "x.sql.gz").write_bytes(gzip.compress(text.encode()))
    lines = ("invoke load <(zcat x.sql.gz)", "invoke load <(cat x.sql.gz)", "mkfifo p; cat x.sql > p & invoke load p",
             "invoke load /dev/stdin < x.sql.gz", "cat x.sql | invoke load /dev/stdin", "cat x.sql.gz | invoke load -",
             "invoke load - < x.sql", "invoke psql -f <(cat x.sql)", "cat x.sql | invoke psql -f /dev/stdin",
             "mkfifo q; cat x.sql > q & invoke psql -f q", "ln -s x.sql.gz l; invoke load l",
             "mkfifo seed/1.sql; cat x.sql > seed/1.sql & invoke seed; rm seed/1.sql")  # fmt: skip
    for line in lines:
        wipe(empty)
        done = shell(empty, line)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        assert sql(empty, "SELECT count(*) FROM kept") == [1000]


def test_what_is_no_file_is_one_sentence(empty: Path) -> None:
    for name, said in (
        ("./seed", "it is a directory"),
        ("/dev/zero", "it is a device"),
        ("nowhere.sql", "No such file or directory"),
        ("https://example.com/x.sql", "`curl -fL https://example.com/x.sql | invoke load -`"),
        ("/dev/null", "is empty"),
    ):
        assert len(fail(empty, 2, "load", name, saying=(said,)).strip().splitlines()) == 1


# -- encodings ------------------------------------------------------------------------------------------------

CAFE = "CREATE TABLE kept (name text);\nINSERT INTO kept VALUES ('Café Müller');\n"


def test_encodings_are_read_right(empty: Path) -> None:
    files = {
        "utf16": CAFE.encode("utf-16"),
        "utf16le without a mark": CAFE.encode("utf-16-le"),
        "utf32be": b"\0\0\xfe\xff" + CAFE.encode("utf-32-be"),
        "utf8 with a mark": CAFE.replace("\n", "\r\n").encode("utf-8-sig"),
        "win1252 that says so": b"SET client_encoding = 'WIN1252';\n" + CAFE.encode("cp1252"),
        "utf16 that says win1252": ("SET client_encoding = 'WIN1252';\r\n" + CAFE).encode("utf-16"),
    }
    for name, content in files.items():
        for command in ("load", "seed"):
            wipe(empty)
            (empty / "seed" / f"{name}.sql").write_bytes(content)
            succeed(empty, *(("load", f"seed/{name}.sql") if command == "load" else ("seed",)))
            assert sql(empty, "SELECT name FROM kept") == ["Café Müller"], f"{command} {name}"
            (empty / "seed" / f"{name}.sql").unlink()


def test_bytes_that_are_not_utf_8_are_told_with_two_ways_that_work(empty: Path) -> None:
    (empty / "x.sql").write_bytes(CAFE.encode("latin-1"))
    said = fail(empty, 1, "load", "x.sql", saying=('invalid byte sequence for encoding "UTF8": 0xe9',))
    assert tables(empty) == []
    found = re.search("`(invoke load .*?)`", said)
    assert found
    assert shell(empty, found[1].replace("FILE", "x.sql")).returncode == 0
    assert sql(empty, "SELECT name FROM kept") == ["Café Müller"]
    wipe(empty)
    line = re.search("`(SET .*?;)`", said)
    assert line
    (empty / "seed" / "x.sql").write_bytes(line[1].encode() + CAFE.encode("latin-1"))
    succeed(empty, "seed")
    assert sql(empty, "SELECT name FROM kept") == ["Café Müller"]


@pytest.mark.parametrize(("name", "codec"), [("SJIS", "cp932"), ("EUC_JP", "euc_jp"), ("KOI8-R", "koi8_r")])
def test_an_encoding_that_is_named_is_believed(empty: Path, name: str, codec: str) -> None:
    word = "размер" if codec == "koi8_r" else "表示ソ"  # whose bytes in SJIS hold backslashes
    (empty / "x.sql").write_bytes(CAFE.replace("Café Müller", word).encode(codec))
    succeed(empty, "load", "--encoding", name, "x.sql")
    assert sql(empty, "SELECT name FROM kept") == [word]


# -- seed/ ----------------------------------------------------------------------------------------------------


def test_seeds_are_applied_in_name_order_whatever_compresses_them(empty: Path) -> None:
    seed = empty / "seed"

    def row(n: int) -> bytes:
        return f"INSERT INTO kept VALUES ({n});".encode()

    (seed / "010.SQL").write_bytes(b"CREATE TABLE kept (n int, at serial);")
    (seed / "020.sql.gz").write_bytes(gzip.compress(row(1)))
    (seed / "030.sql.zst").write_bytes(zstd.compress(row(2)))
    (seed / "040.sql.xz").write_bytes(lzma.compress(row(3)))
    (seed / "050.sql.bz2").write_bytes(bz2.compress(row(4)))
    (seed / "060.sql").write_bytes(row(5))
    for name in ("rows.csv", "070.sql.bak", "README.md", ".gitkeep"):
        (seed / name).touch()
    said = run(empty, "seed").stderr
    assert sql(empty, "SELECT n FROM kept ORDER BY at") == [1, 2, 3, 4, 5]
    (line,) = [each for each in said.splitlines() if "Passed over" in each]
    assert line.endswith(": 070.sql.bak, rows.csv.")


# -- extensions -----------------------------------------------------------------------------------------------

UUIDS = """
CREATE SCHEMA odd;
CREATE EXTENSION "uuid-ossp" WITH SCHEMA odd;
CREATE TABLE kept (id uuid PRIMARY KEY DEFAULT odd.uuid_generate_v4(),
    five uuid GENERATED ALWAYS AS (odd.uuid_generate_v5(odd.uuid_ns_url(), 'x')) STORED);
INSERT INTO kept VALUES (odd.uuid_generate_v1()), (DEFAULT);
"""


def test_a_dump_with_uuid_ossp_goes_from_engine_to_engine(empty: Path, template: Path, tmp_path: Path) -> None:
    (empty / "x.sql").write_text(UUIDS)
    succeed(empty, "load", "x.sql")
    rows = sql(empty, "SELECT array_agg(k ORDER BY k)::text FROM kept AS k")
    for name in ("x.dump", "y.sql"):
        succeed(empty, "dump", name)
        there = "embedded" if value(empty, "STACK_ENGINE") == "docker" else "docker"
        with copy_for(there, template, tmp_path / unique()) as other:
            succeed(other, "up")
            succeed(other, "load", str(empty / name))
            assert sql(other, "SELECT array_agg(k ORDER BY k)::text FROM kept AS k") == rows
            sql(other, "INSERT INTO kept DEFAULT VALUES")
            run(other, "down")


def test_an_extension_that_is_not_there_names_what_decides(empty: Path) -> None:
    (empty / "x.sql").write_text("CREATE TABLE kept (n int);\nCREATE EXTENSION vector;\n")
    said = fail(empty, 1, "load", "x.sql", saying=('extension "vector" is not available', "the data stays"))
    if value(empty, "STACK_ENGINE") == "embedded":
        assert "POSTGRES_BIN_DIR" in said
        assert "Docker" in said
        assert "postgresql-17-pgvector" in said
    else:
        assert "`POSTGRES_IMAGE=pgvector/pgvector:pg17` in .env" in said
        assert value(empty, "POSTGRES_IMAGE") in said
    cure = said[said.index("Which extensions") :]
    for words, code in ((("-f", "x.sql", "--", "-q"), 3), (("-c", "CREATE EXTENSION vector"), 1)):
        fail(empty, code, "psql", *words, saying=('extension "vector" is not available', cure))
        sql(empty, "DROP TABLE IF EXISTS kept")
    with closing(Terminal(empty, "psql", "-c", "CREATE EXTENSION vector")) as terminal:
        terminal.expect("Which extensions there are is up to")
    (empty / "x.sql").write_text("CREATE EXTENSION IF NOT EXISTS nobodys;\n")
    fail(empty, 1, "load", "x.sql", saying=("no nobodys.",))


def test_another_image_with_the_extension_is_the_cure(template: Path, tmp_path: Path) -> None:
    """The published image cannot be had everywhere: one of ours gets an extension of that name."""
    with copy_for("docker", template, tmp_path / unique()) as copy:
        succeed(copy, "up")
        sql(copy, "CREATE TABLE before (n int)")
        sql(copy, "INSERT INTO before VALUES (7)")
        (copy / "x.sql").write_text("CREATE EXTENSION vector;\nCREATE TABLE kept (n int);\n")
        said = fail(copy, 1, "load", "--clean", "--yes", "x.sql", saying=("`POSTGRES_IMAGE=",))
        assert "`invoke up`" in said
        image, place = unique(), "/usr/share/postgresql/17/extension/vector"
        made = docker("create", "--user", "0", "--entrypoint", "sh", images()["POSTGRES_IMAGE"], "-c",
                      f"echo default_version=1 > {place}.control; echo 'SELECT 1;' > {place}--1.sql")  # fmt: skip
        try:
            docker("start", "--attach", made)
            config = docker("inspect", "--format", "{{json .Config.Entrypoint}}", containers(copy)["postgres"])
            changes = (f"ENTRYPOINT {config}", 'CMD ["postgres"]', "USER root")
            docker("commit", *(word for each in changes for word in ("--change", each)), made, image)
            configure(copy, POSTGRES_IMAGE=image)
            succeed(copy, "up")
            assert sql(copy, "SELECT n FROM before") == [7]
            succeed(copy, "load", "--clean", "--yes", "x.sql")
            assert tables(copy) == ["kept"]
        finally:
            run(copy, "down")
            docker("rm", "--force", made)
            docker("rmi", "--force", image)
