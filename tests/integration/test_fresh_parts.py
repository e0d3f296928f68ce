"""`invoke fresh` after one file of seed/ has changed: begun from the files before it, and the same as all made anew."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.checkout import configure, eventually, fail, run, sql, succeed, tables
from tests.integration.test_interrupts import begin, ended

FILES = {
    "010_roles.sql": "CREATE ROLE {role} LOGIN;\nCREATE SCHEMA app AUTHORIZATION {role};\n",
    "020_tables.sql": "CREATE TABLE one (n int);\n\\copy one FROM 'parts/one.csv'\nCREATE TABLE two (n int, t text);\n"
    "ALTER DATABASE convex_poc SET search_path = 'app', 'public';\nCOMMENT ON DATABASE convex_poc IS 'ours';\n",
    "030_rows.sql": "INSERT INTO two SELECT n, 'row ' || n FROM generate_series(1, 500) AS n;\n"
    "ALTER DATABASE convex_poc CONNECTION LIMIT 40;\n",
    "040_grants.sql": "GRANT SELECT ON public.two TO {role};\nGRANT CREATE ON DATABASE convex_poc TO {role};\n",
}  # fmt: skip
APPLIED = re.compile(r"^seed/(\S+)$", re.MULTILINE)
KEPT = "SELECT count(*) FROM pg_database WHERE datname ~ '^stack-snapshot-'"


def write(copy: Path, name: str, text: str) -> None:
    file = copy / "seed" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    if text.startswith("#!"):
        file.chmod(0o755)


@pytest.fixture
def seeded(either: Path) -> Path:
    """A stack that is up, and made afresh of four files."""
    for file in (either / "seed").glob("*.sql"):
        file.unlink()
    for name, text in FILES.items():
        write(either, name, text.format(role="stack_app"))
    write(either, "parts/one.csv", "1\n2\n")
    succeed(either, "up")
    assert fresh(either) == list(FILES)
    return either


def fresh(copy: Path, *options: str) -> list[str]:
    """Type it, and return the files that were applied."""
    told = run(copy, "fresh", *options)
    assert told.returncode == 0, told.stderr
    return APPLIED.findall(told.stderr)


def content(copy: Path) -> str:
    """Return the database as a dump has it, with what belongs to the database itself."""
    succeed(copy, "dump", "seen.sql")
    text = re.sub(
        r"(?m)^\\(un)?restrict .*|^-- (Started|Completed) on .*|^-- Dumped .*", "", (copy / "seen.sql").read_text()
    )
    its = (
        "SELECT row(datconnlimit, datistemplate, datacl, pg_get_userbyid(datdba), setconfig,"
        " shobj_description(oid, 'pg_database'))::text"
        " FROM pg_database AS d LEFT JOIN pg_db_role_setting ON setdatabase = d.oid WHERE datname = 'convex_poc'"
    )
    return text + "\n".join(sql(copy, its))


def the_same_as_made_anew(copy: Path) -> bool:
    before = content(copy)
    assert fresh(copy, "--no-cache")
    assert "CREATE TABLE public.two" in before
    return content(copy) == before


def changed(name: str, text: str) -> Callable[[Path], None]:
    return lambda copy: write(copy, name, FILES.get(name, "").format(role="stack_app") + text)


def removed(name: str) -> Callable[[Path], None]:
    return lambda copy: (copy / "seed" / name).unlink()


def renamed(name: str, other: str) -> Callable[[Path], None]:
    def edit(copy: Path) -> None:
        (copy / "seed" / name).rename(copy / "seed" / other)

    return edit


FIRST = ["010_roles.sql", "020_tables.sql", "030_rows.sql", "035_more.sql"]
EDITS = (
    ("the last", changed("040_grants.sql", "INSERT INTO two VALUES (0, 'last');\n"), ["040_grants.sql"]),
    ("the last, again", changed("040_grants.sql", "INSERT INTO two VALUES (0, 'again');\n"), ["040_grants.sql"]),
    ("one in the middle", changed("030_rows.sql", "DELETE FROM two WHERE n > 9;\n"), list(FILES)),
    ("the same, again", changed("030_rows.sql", "DELETE FROM two WHERE n > 8;\n"), ["030_rows.sql", "040_grants.sql"]),
    ("one that settings are in", changed("030_rows.sql", "COMMENT ON DATABASE convex_poc IS NULL;\n"
     "ALTER DATABASE convex_poc RESET search_path;\n"), ["030_rows.sql", "040_grants.sql"]),
    ("one more behind", changed("050_view.sql", "CREATE VIEW public.sum AS SELECT 1;\n"), ["050_view.sql"]),
    ("one more between", changed("035_more.sql", "INSERT INTO public.one VALUES (3);\n"),
     [*FIRST, "040_grants.sql", "050_view.sql"]),
    ("the last gone", removed("050_view.sql"), ["035_more.sql", "040_grants.sql"]),
    ("another name", renamed("040_grants.sql", "045_grants.sql"), ["035_more.sql", "045_grants.sql"]),
    ("the first", changed("010_roles.sql", "CREATE TABLE app.first ();\n"), [*FIRST, "045_grants.sql"]),
    ("what another reads", changed("parts/one.csv", "7\n"), [*FIRST, "045_grants.sql"]),
)  # fmt: skip


def test_whatever_has_changed_it_becomes_what_all_files_make(seeded: Path) -> None:
    for what, edit, applied in EDITS:
        edit(seeded)
        assert fresh(seeded) == applied, what
        assert the_same_as_made_anew(seeded), what
        assert sql(seeded, KEPT)[0] <= 3, what


def test_what_fails_is_begun_again_where_it_failed(seeded: Path) -> None:
    write(seeded, "030_rows.sql", "SELECT 1/0;")
    write(seeded, "015_role.sql", "CREATE ROLE stack_too;\nCREATE TABLE mine AS SELECT 7 AS n;\n")
    fail(seeded, 1, "fresh", saying=("seed/030_rows.sql:1:", "division by zero", "the database is as it was"))
    assert "stack_too" not in sql(seeded, "SELECT rolname FROM pg_roles")  # which a part that needs it would have kept
    assert tables(seeded) == ["one", "two"]
    succeed(seeded, "restore")  # that is what all files made, and no part of it
    assert tables(seeded) == ["one", "two"]
    (seeded / "seed" / "015_role.sql").unlink()
    fail(seeded, 1, "fresh", saying=("seed/030_rows.sql:1:",))
    write(seeded, "030_rows.sql", "INSERT INTO two VALUES (1, 'mended');\n")
    assert fresh(seeded) == ["030_rows.sql", "040_grants.sql"]
    assert sql(seeded, "SELECT t FROM two") == ["mended"]


def test_a_part_whose_role_is_gone_is_not_begun_from(seeded: Path) -> None:
    write(seeded, "010_roles.sql", "CREATE ROLE stack_alone LOGIN;\nCREATE ROLE stack_app;\nCREATE SCHEMA app;\n")
    fresh(seeded)
    sql(seeded, "DROP ROLE stack_alone")
    assert fresh(seeded)[0] == "010_roles.sql"
    assert sql(seeded, "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'stack_alone'") == [True]
    assert fresh(seeded) == []


def test_a_file_that_reads_a_later_one_is_made_anew_with_it(seeded: Path) -> None:
    write(
        seeded, "010_roles.sql", "CREATE ROLE stack_app;\nCREATE SCHEMA app;\n\\ir 040_grants.inc\n\\ir 039_too.sql\n"
    )
    write(seeded, "040_grants.inc", "")
    write(seeded, "039_too.sql", "CREATE TABLE IF NOT EXISTS public.three ();\n")
    fresh(seeded)
    write(seeded, "039_too.sql", "CREATE TABLE IF NOT EXISTS public.four ();\n")
    assert fresh(seeded)[0] == "010_roles.sql"
    assert tables(seeded) == ["four", "one", "two"]


def test_a_program_that_does_not_say_what_it_reads_is_run_again_and_what_is_before_it_is_not(seeded: Path) -> None:
    write(seeded, "035_program.sh", "#!/bin/sh\ntrue\n")
    fresh(seeded)
    assert fresh(seeded) == ["035_program.sh", "040_grants.sql"]


def test_without_spares_it_is_brought_back_all_the_same(seeded: Path) -> None:
    configure(seeded, STACK_SPARE="0")
    write(seeded, "040_grants.sql", "SELECT 1;\n")
    assert fresh(seeded) == ["040_grants.sql"]
    before = content(seeded)
    sql(seeded, "DROP TABLE two")
    assert fresh(seeded) == []
    assert content(seeded) == before
    eventually(lambda: not sql(seeded, "SELECT FROM pg_database WHERE datname ~ '^stack.(spare|making|doomed)'"))


def test_a_seed_with_a_subscription_is_not_kept_and_that_is_said(seeded: Path) -> None:
    subscription = "CREATE SUBSCRIPTION far CONNECTION 'host=127.0.0.1 port=9' PUBLICATION p WITH (connect = false);\n"
    write(seeded, "050_far.sql", subscription)
    for _ in range(2):  # nor the second time
        told = run(seeded, "fresh")
        assert told.returncode == 0, told.stderr
        assert "It is not kept for the next time, since no copy has the subscription far" in told.stderr
        assert APPLIED.findall(told.stderr) == ["050_far.sql"]
        here = "SELECT subname FROM pg_subscription JOIN pg_database AS d ON d.oid = subdbid"
        assert sql(seeded, f"{here} WHERE datname = 'convex_poc' AND NOT subenabled") == ["far"]
    (seeded / "seed" / "050_far.sql").unlink()
    assert fresh(seeded) == []
    eventually(lambda: not sql(seeded, "SELECT subname FROM pg_subscription"))  # what is replaced goes by and by


def test_killed_between_two_files_it_leaves_what_is_whole(seeded: Path) -> None:
    write(seeded, "030_rows.sql", "SELECT pg_sleep(60);")
    command = begin(seeded, "fresh")
    with ended(command):
        working = "SELECT pid FROM pg_stat_activity WHERE query ~ '^ *SELECT pg_sleep' AND datname ~ '^stack_making_'"
        eventually(lambda: sql(seeded, working, dbname="postgres"))
        command.send_signal(signal.SIGKILL)
        command.wait(30)
    write(seeded, "030_rows.sql", FILES["030_rows.sql"])
    assert tables(seeded) == ["one", "two"]
    assert fresh(seeded) == []
    write(seeded, "030_rows.sql", "INSERT INTO two VALUES (1, 'after');\n")
    assert fresh(seeded) == ["030_rows.sql", "040_grants.sql"]
    left = "SELECT count(*) FROM pg_database WHERE datname ~ '^stack.(making|doomed)'"
    eventually(lambda: sql(seeded, left) == [0])


def test_the_list_tells_what_is_kept(seeded: Path) -> None:
    told = succeed(seeded, "snapshots")
    assert re.search(r"right after the seed *\n.*seed/ up to 030_rows\.sql, for the next fresh\n", told)
