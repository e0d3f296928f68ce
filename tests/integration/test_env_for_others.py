"""The settings that `invoke env` prints, taken in by the programs that they are printed for; and an odd password."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
from pathlib import Path

import psycopg
import pytest
from dotenv import dotenv_values

from tests.integration.checkout import (
    INVOKE,
    configure,
    containers,
    docker,
    environment,
    fail,
    login,
    run,
    succeed,
    value,
)
from tests.integration.conftest import Make

ODD = "pa$$ w#rd%@:/é"


@pytest.fixture(scope="module")
def odd(make_shared: Make) -> Path:
    """A stack that is up, with what every reader and every URL has trouble with."""
    made = make_shared(POSTGRES_PASSWORD=f"'{ODD}'", POSTGRES_USER="'Jo é'", POSTGRES_DB="'my db/%b@se:1?'")
    succeed(made, "up")
    return made


@pytest.fixture(params=["shared", "odd"])
def stack(request: pytest.FixtureRequest) -> Path:
    """A stack with ordinary names, and the odd one."""
    found: Path = request.getfixturevalue(request.param)
    return found


def connects(copy: Path, url: str | None) -> bool:
    with psycopg.connect(url or "no URL", connect_timeout=5) as connection:
        found = connection.execute("SELECT current_user, current_database()").fetchone()
    return found == (value(copy, "POSTGRES_USER"), value(copy, "POSTGRES_DB"))


def test_dotenv_is_read_back_by_python_dotenv(stack: Path) -> None:
    values = dotenv_values(stream=io.StringIO(succeed(stack, "env")))
    assert connects(stack, values["DATABASE_URL"])
    assert values["PGPASSWORD"] == value(stack, "POSTGRES_PASSWORD")
    assert values["PGPORT"] == value(stack, "POSTGRES_PORT")
    assert values["CONVEX_SELF_HOSTED_URL"] == f"http://127.0.0.1:{value(stack, 'CONVEX_PORT')}"


def test_dotenv_is_read_back_by_compose(stack: Path, tmp_path: Path) -> None:
    (tmp_path / "settings").write_text(succeed(stack, "env", "--format", "dotenv"), encoding="utf-8")
    (tmp_path / "compose.yml").write_text(
        'services: {s: {image: i, environment: ["A=$DATABASE_URL", "B=$PGPASSWORD"]}}', encoding="utf-8"
    )
    files = ("--env-file", str(tmp_path / "settings"), "-f", str(tmp_path / "compose.yml"))
    found = json.loads(docker("compose", *files, "config", "--format", "json").replace("$$", "$"))
    assert connects(stack, found["services"]["s"]["environment"]["A"])
    assert found["services"]["s"]["environment"]["B"] == value(stack, "POSTGRES_PASSWORD")


def test_shell_lines_are_read_back_by_the_shell(stack: Path) -> None:
    result = subprocess.run(
        ["sh", "-c", 'eval "$1"; printf "%s\\n" "$DATABASE_URL" "$PGPASSWORD"; env | grep -c "^PGHOST="', "sh",
         succeed(stack, "env", "--format", "shell")],
        check=True, capture_output=True, encoding="utf-8", env=environment(),
    )  # fmt: skip
    url, password, exported = result.stdout.splitlines()
    assert connects(stack, url)
    assert (password, exported) == (value(stack, "POSTGRES_PASSWORD"), "1")


def test_json_is_json(stack: Path) -> None:
    values = json.loads(succeed(stack, "env", "--format", "json"))
    assert connects(stack, values["DATABASE_URL"])
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    psycopg.connect(**{key: values[name] for key, name in names.items()}).close()


def test_another_format_is_refused(shared: Path) -> None:
    fail(shared, 2, "env", "--format", "yaml", saying=("yaml", "dotenv, shell or json"))


def test_an_odd_password_is_one_to_everybody(odd: Path) -> None:
    login(odd).close()
    assert run(odd, "status").returncode == 0
    assert "1 row" in succeed(odd, "psql", "-c", "SELECT 1")
    succeed(odd, "wait-healthy")
    plain = ("compose", "-f", "docker-compose.yml", "-f", "docker-compose.dev.yml", "config", "--format", "json")
    config = json.loads(docker(*plain, cwd=odd).replace("$$", "$"))
    assert config["services"]["postgres"]["environment"]["POSTGRES_PASSWORD"] == ODD
    assert ODD not in succeed(odd, "status") + run(odd, "wait-healthy").stderr


def test_without_a_stack_the_settings_are_printed_all_the_same(copy: Path) -> None:
    configure(copy, POSTGRES_USER="somebody")
    assert "postgresql://somebody:postgres@" in succeed(copy, "env")
    assert containers(copy) == {}


def test_what_the_shell_says_of_other_databases_leads_nobody_elsewhere(shared: Path) -> None:
    for name, text in {
        "DATABASE_URL": "postgresql://somebody@192.0.2.1/production",
        "PGHOSTADDR": "192.0.2.1",
        "PGSERVICE": "production",
        "PGSSLMODE": "verify-full",
        "PGOPTIONS": "-c no_such_setting=1",
        "PGUSER": "somebody",
    }.items():
        succeed(shared, "wait-healthy", "--timeout", "3", env={name: text})
        assert "convex_poc" in succeed(shared, "psql", "-c", "SELECT current_database()", env={name: text})


def test_a_reader_that_ends_early_is_no_disaster(shared: Path) -> None:
    for command in (("env",), ("status",), ("status", "--json"), ("logs",)):
        pipe = f"{shlex.join((*INVOKE, *command))} | true"
        result = subprocess.run(
            ["sh", "-c", pipe], check=True, capture_output=True, text=True, cwd=shared, env=environment()
        )
        assert "Traceback" not in result.stderr, command
        assert "BrokenPipe" not in result.stderr, command
