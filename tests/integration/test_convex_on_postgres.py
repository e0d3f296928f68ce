"""Convex with its tables in the stack's PostgreSQL: by our commands and by plain Compose; what is refused, and said."""

from __future__ import annotations

import json
import random
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from stack.sql import stackfile
from tests.integration.checkout import configure, containers, docker, eventually, fail, run, sql, succeed, tables, value
from tests.integration.conftest import Make, begin
from tests.integration.test_both import KILLS, agree_beside_a_writer, both_raise, convex, kill_at_random, numbers
from tests.integration.test_doctor import ask
from tests.integration.test_init_data import tracked, worktree_of

pytestmark = pytest.mark.usefixtures("counted")

LAYERS = "dev,convex-postgres"
PASSWORD = 'a b/ü:@%?#"$x'


@pytest.fixture
def on_postgres(make: Make, template: Path) -> Path:
    copy = make(STACK_LAYERS=LAYERS)
    begin(copy, "docker", template)
    succeed(copy, "up")
    return copy


def test_its_tables_are_in_a_database_of_their_own(on_postgres: Path) -> None:
    assert sql(on_postgres, "SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1") == [
        "convex_poc", "convex_self_hosted", "postgres",
    ]  # fmt: skip
    assert convex(on_postgres, raised=True) == 1
    assert sql(on_postgres, "SELECT n FROM counter", dbname="convex_self_hosted") == [1]
    assert not (on_postgres / "data" / "convex" / "db.sqlite3").exists()
    told = run(on_postgres, "status")
    assert "convex-database" in told.stdout
    assert "Convex keeps its tables in the database convex_self_hosted." in told.stderr
    succeed(on_postgres, "restart")
    succeed(on_postgres, "down")
    told = run(on_postgres, "up")
    assert (told.returncode, "db.sqlite3" in told.stderr) == (0, False), told.stderr
    assert convex(on_postgres) == 1
    told = run(on_postgres, "reset-data", "--yes")
    assert "every database of the PostgreSQL cluster, and Convex's tables with them (convex_self_hosted)" in told.stderr
    assert "every Convex deployment: files, and the admin keys" in told.stderr
    assert told.returncode == 0, told.stderr
    succeed(on_postgres, "up")
    assert convex(on_postgres) == 0


def test_its_database_is_made_by_a_service_that_waits_for_the_server(on_postgres: Path) -> None:
    """`docker compose restart` starts both at once, and the server may be the later one."""
    of = containers(on_postgres)
    docker("stop", of["postgres"])
    docker("start", of["convex-database"])
    time.sleep(1.5)
    docker("start", of["postgres"])
    assert docker("wait", of["convex-database"]) == "0", docker("logs", of["convex-database"])


def test_a_password_may_have_any_character(make: Make) -> None:
    copy = make(STACK_LAYERS=LAYERS, POSTGRES_PASSWORD=f"'{PASSWORD}'")
    succeed(copy, "up")
    assert convex(copy, raised=True) == 1


def test_plain_compose_waits_for_the_database(make: Make) -> None:
    copy = make()
    files = [word for name in ("docker-compose.yml", "docker-compose.dev.yml", "docker-compose.convex-postgres.yml")
             for word in ("-f", name)]  # fmt: skip
    docker("compose", *files, "up", "-d", "--wait", "convex-backend", "convex-dashboard", "postgres", cwd=copy)
    assert convex(copy, raised=True) == 1
    assert tables(copy, dbname="convex_self_hosted") == ["counter"]
    docker("compose", *files, "up", "-d", "--force-recreate", cwd=copy)  # which finds the database there


def test_an_instance_that_would_have_the_apps_database_is_refused(make: Make) -> None:
    copy = make(STACK_LAYERS=LAYERS, CONVEX_INSTANCE_NAME="convex-poc")
    told = fail(copy, 2, "up", saying=("in the database convex_poc", "is your own", "Set another CONVEX_INSTANCE_NAME"))
    assert "Nothing was started" in told
    assert not containers(copy)
    succeed(copy, "up", env={"CONVEX_INSTANCE_NAME": "mine"})
    assert tables(copy, dbname="mine") == ["counter"]


@pytest.fixture
def both(on_postgres: Path) -> Path:
    """The same with the number 1 in both stores."""
    sql(on_postgres, "CREATE TABLE counter AS SELECT 0 AS n")
    both_raise(on_postgres)
    return on_postgres


def ours(copy: Path) -> list[Any]:
    """Return what the databases of Convex's are called that go with ours, each without its digits."""
    found = sql(copy, "SELECT left(datname, -33) FROM pg_database WHERE datname ~ '^stack-convex-' ORDER BY 1")
    return [name.removeprefix("stack-convex-") for name in found]


def test_a_snapshot_is_two_databases_and_the_directory(both: Path) -> None:
    took = run(both, "snapshot", "one")
    assert took.returncode == 0, took.stderr
    assert " and Convex (" in took.stderr
    assert "brings both back" in took.stderr
    assert numbers(both) == (1, 1)
    eventually(lambda: ours(both) == ["snapshot", "spare"])
    both_raise(both)
    (both / "data" / "convex" / "storage" / "file").write_text("new")
    told = run(both, "restore", "one")
    assert told.returncode == 0, told.stderr
    assert "convex_poc and Convex are as they were when the snapshot one was taken" in told.stderr
    assert numbers(both) == (1, 1)
    assert not (both / "data" / "convex" / "storage" / "file").exists()
    succeed(both, "undo")
    assert numbers(both) == (2, 2)
    assert (both / "data" / "convex" / "storage" / "file").exists()
    succeed(both, "undo")
    assert numbers(both) == (1, 1)
    assert json.loads(succeed(both, "snapshots", "--json"))[0]["convex"]["bytes"] > 5_000_000  # its database too
    both_raise(both)
    both_raise(both)
    succeed(both, "restore", "one", "--keep")
    assert numbers(both) == (1, 1)
    kept = next(each["name"] for each in json.loads(succeed(both, "snapshots", "--json")) if each["name"] != "one")
    succeed(both, "restore", kept)
    assert numbers(both) == (3, 3)


def test_one_of_them_comes_back_alone(both: Path) -> None:
    succeed(both, "snapshot", "one")
    both_raise(both)
    succeed(both, "restore", "one", "--only", "pg")
    assert numbers(both) == (1, 2)
    succeed(both, "undo")
    succeed(both, "restore", "one", "--only", "convex")
    assert numbers(both) == (2, 1)
    succeed(both, "undo")
    assert numbers(both) == (2, 2)
    succeed(both, "snapshot", "alone", "--only", "pg")
    assert sql(both, "SELECT count(*) FROM pg_database WHERE datname ~ '^stack-convex-snapshot'") == [1]


def test_what_goes_with_a_snapshot_ends_with_it(both: Path) -> None:
    succeed(both, "snapshot", "one")
    succeed(both, "drop-snapshot", "one", "--yes")
    eventually(lambda: ours(both) == ["snapshot"])  # `undo` wants it
    succeed(both, "undo")
    both_raise(both)
    succeed(both, "restore", "one")
    assert numbers(both) == (1, 1)
    succeed(both, "snapshot", "one", "--replace")
    succeed(both, "drop-snapshot", "one", "--yes")
    succeed(both, "snapshot", "two", "--only", "pg")
    succeed(both, "drop-snapshot", "two", "--yes")
    eventually(lambda: not ours(both))


def test_no_half_is_restored_as_if_it_were_whole(both: Path) -> None:
    succeed(both, "snapshot", "one")
    eventually(lambda: ours(both) == ["snapshot", "spare"])
    for name in sql(both, "SELECT datname FROM pg_database WHERE datname ~ '^stack-convex-'"):
        sql(both, f'DROP DATABASE "{name}"')
    both_raise(both)
    told = fail(both, 2, "restore", "one", saying=("Convex's part of the snapshot one is gone", "Nothing was done"))
    assert "`invoke restore one --only pg`" in told
    assert numbers(both) == (2, 2)
    succeed(both, "restore", "one", "--only", "pg")  # the cure
    assert numbers(both) == (1, 2)


def test_both_are_of_one_moment_beside_a_program_that_writes_to_both(both: Path) -> None:
    agree_beside_a_writer(both, 3)


def test_a_pair_stays_a_pair_whenever_it_is_killed(both: Path) -> None:
    kill_at_random(both, KILLS, random.Random(23))  # noqa: S311


def test_a_file_with_both_has_its_tables_and_brings_them_back(both: Path, make: Make, tmp_path: Path) -> None:
    file = tmp_path / "all.stack"
    told = run(both, "dump", "--all", str(file))
    assert told.returncode == 0, told.stderr
    assert "the database and Convex (" in told.stderr
    with tarfile.open(file) as parts:
        assert parts.getnames() == ["manifest.json", "database.dump", "convex.dump", "convex.tar.zst"]
    both_raise(both)
    both_raise(both)
    told = run(both, "load", "--clean", "--yes", str(file))
    assert told.returncode == 0, told.stderr
    assert "the database and Convex" in told.stderr
    assert numbers(both) == (1, 1)
    succeed(both, "undo")
    assert numbers(both) == (3, 3)
    succeed(both, "reset-data", "--yes")
    succeed(both, "up")
    succeed(both, "load", "--clean", "--yes", str(file))
    assert numbers(both) == (1, 1)
    assert not sql(both, "SELECT FROM pg_database WHERE datname ~ '^stack_making'")
    succeed(both, "down")
    other = make()  # whose Convex keeps its tables in its directory
    succeed(other, "up")
    told = run(other, "load", str(file))
    assert told.returncode == 0
    assert "The Convex in" in told.stderr
    assert "keeps its tables in its directory here" in told.stderr
    assert (sql(other, "SELECT n FROM counter"), convex(other)) == ([1], 0)


def test_a_file_whose_tables_cannot_be_loaded_changes_nothing(both: Path, tmp_path: Path) -> None:
    """They come last: the database aside is whole by then."""
    file, torn = tmp_path / "all.stack", tmp_path / "torn.stack"
    succeed(both, "dump", "--all", str(file))
    with tarfile.open(file) as parts, torn.open("wb") as output:
        writer = stackfile.Writer(output)
        told = json.load(parts.extractfile("manifest.json"))  # type: ignore[arg-type]
        for name in ("database.dump", "convex.dump", "convex.tar.zst"):
            content = parts.extractfile(name).read()  # type: ignore[union-attr]
            with writer.part(name) as part:
                part.write(content[:-300] if name == "convex.dump" else content)
        writer.finish({key: value for key, value in told.items() if key not in ("stack_file", "parts")})
    both_raise(both)
    fail(
        both,
        1,
        "load",
        "--clean",
        "--yes",
        str(torn),
        saying=("Convex's tables were not loaded, and all is as it was",),
    )
    assert numbers(both) == (2, 2)
    succeed(both, "load", "--clean", "--yes", str(file))
    assert numbers(both) == (1, 1)


def test_a_worktree_has_both(both: Path) -> None:
    tracked(both)
    succeed(both, "snapshot", "one")
    with worktree_of(both) as fix:
        told = run(fix, "init", "--isolated", "--data", "--snapshots")
        assert told.returncode == 0, told.stderr
        both_raise(both)
        succeed(fix, "up")
        assert (numbers(fix), numbers(both)) == ((1, 1), (2, 2))
        assert value(fix, "STACK_LAYERS") == LAYERS
        both_raise(fix)
        both_raise(fix)
        succeed(fix, "restore", "one")
        assert (numbers(fix), numbers(both)) == ((1, 1), (2, 2))
        succeed(fix, "down")
    with worktree_of(both) as fix:
        succeed(both, "down")
        succeed(fix, "init", "--isolated", "--data")
        succeed(fix, "up")
        assert numbers(fix) == (2, 2)
        assert not ours(fix)


def test_doctor_looks_for_its_database(both: Path) -> None:
    found = ask(both, code=0)["convex"]
    assert found["state"] == "ok"
    assert "in the database convex_self_hosted (" in found["message"]
    succeed(both, "snapshot", "one")
    sql(both, "DROP DATABASE convex_self_hosted WITH (FORCE)")
    found = ask(both, code=1)["convex"]
    assert found["state"] == "failed"
    assert "`invoke up`, which makes it, empty" in found["cure"]
    fail(both, 1, "snapshot", "two", saying=("There is no database 'convex_self_hosted'", "Nothing was done"))
    succeed(both, "up")  # the cure, in its two steps
    succeed(both, "restore", "one", "--only", "convex")
    assert numbers(both) == (1, 1)


def test_one_store_cannot_be_deleted_alone(both: Path) -> None:
    for service in ("pg", "convex"):
        fail(both, 2, "reset-data", "--service", service, "--yes", saying=("nothing was deleted", "reset-data`"))
    assert numbers(both) == (1, 1)


def test_who_switches_is_told_and_switches_back(make: Make) -> None:
    copy = make()
    succeed(copy, "up")
    sql(copy, "CREATE TABLE kept ()")
    assert convex(copy, raised=True) == 1
    succeed(copy, "snapshot", "whole")
    convex(copy, raised=True)
    configure(copy, STACK_LAYERS=LAYERS)
    told = run(copy, "up")
    assert told.returncode == 0, told.stderr
    assert "data/convex/db.sqlite3 has the tables of Convex from before" in told.stderr
    assert convex(copy) == 0
    fail(copy, 2, "restore", "whole", saying=("Nothing was done", "Switch to those (STACK_LAYERS)", "--only pg"))
    assert convex(copy) == 0
    succeed(copy, "restore", "whole", "--only", "pg")  # the one cure
    configure(copy, STACK_LAYERS="dev")
    succeed(copy, "up")
    assert convex(copy) == 2
    succeed(copy, "restore", "whole")  # the other
    assert (tables(copy), convex(copy)) == (["kept"], 1)
