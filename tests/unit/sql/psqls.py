"""A script run by a real psql: as it is, and as `Script` gives it."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psycopg

from stack.engines.embedded.engine import Embedded
from stack.ground.run import environment
from stack.sql.script import Script


@dataclass
class Outcome:
    """What came of it."""

    code: int
    output: str
    said: str


class Psql:
    """Two fresh databases of a server, one for each way."""

    def __init__(self, server: Embedded) -> None:
        self.server = server

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        url = self.server.endpoint().url(masked=False)
        with psycopg.connect(url, dbname=database, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def argv(self, program: str, database: str, *options: str) -> tuple[list[str], dict[str, str]]:
        command = self.server.client(program)
        return [*(re.sub(r"dbname='[^']*'", f"dbname='{database}'", each) for each in command.argv), *options], dict(
            command.env
        )

    def fresh(self, database: str) -> None:
        self.sql(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')
        self.sql(f'CREATE DATABASE "{database}"')

    def dumped(self, database: str) -> str:
        argv, env = self.argv("pg_dump", database)
        made = subprocess.run(argv, env=environment(env), capture_output=True, text=True, check=True, errors="replace")
        return re.sub(r"\\(un)?restrict .*\n", "", made.stdout)

    def as_it_is(self, file: Path, database: str = "plainly") -> Outcome:
        self.fresh(database)
        argv, env = self.argv("psql", database, "-XAtq", "-v", "ON_ERROR_STOP=1", "-f", str(file))
        made = subprocess.run(argv, env=environment(env), capture_output=True, text=True, errors="replace", check=False)
        return Outcome(made.returncode, made.stdout, made.stderr)

    def through(self, script: Script, database: str = "aside") -> Outcome:
        """`database` is there already."""
        argv, env = self.argv("psql", database, "-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-")
        given = b"".join(iter(lambda: script.read(1 << 16), b""))
        made = subprocess.run(argv, env=environment(env), input=given, capture_output=True, check=False)
        output, said = (each.decode(errors="replace") for each in (made.stdout, made.stderr))
        return Outcome(made.returncode, output, script.words(said))

    def run(self, database: str, folder: Path, *options: str, given: bytes = b"") -> tuple[int, str, str]:
        argv, env = self.argv("psql", database, "-XAtq", "-v", "ON_ERROR_STOP=1", *options)
        made = subprocess.run(
            argv, env=environment(env), input=given, capture_output=True, check=False, cwd=folder, timeout=60
        )
        return made.returncode, made.stdout.decode(errors="replace"), made.stderr.decode(errors="replace")


class Roles:
    """Makes those that are missing, as `load` does, and removes them in the end."""

    def __init__(self, psql: Psql) -> None:
        self._psql = psql
        self.asked: list[str] = []
        self.made: list[str] = []

    def __call__(self, role: str) -> bool:
        self.asked.append(role)
        if self._psql.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'"):
            return False
        self._psql.sql(f'CREATE ROLE "{role}" NOLOGIN')
        self.made.append(role)
        return True
