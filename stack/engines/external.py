"""Somebody else's PostgreSQL server: its life is not ours, everything else works."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from stack.engines.base import NO_OTHER, Engine, Service
from stack.engines.checks import Check, Findings, check, checks_in, ok
from stack.ground.errors import Refused, StackError
from stack.ground.run import Command
from stack.ground.settings import ROOT, Settings
from stack.server.address import Endpoint, client_options, conninfo
from stack.server.programs import client_program


class Health:
    """What can be said of a server that is run elsewhere."""

    def __init__(self, engine: External) -> None:
        self._engine = engine

    @check("env file", elsewhere=True)
    def platform(self) -> Findings:
        """DATABASE_URL is an address.

        Write it as libpq takes it.
        """
        yield ok(f"external engine: {self._engine.endpoint().url()}")


class External(Engine):
    """The server that DATABASE_URL names."""

    name = "external"

    def __init__(self, settings: Settings, root: Path = ROOT) -> None:
        super().__init__(settings, root)
        if not settings.database_url:
            raise Refused(
                "STACK_ENGINE is external and DATABASE_URL is not set, so there is no server to talk to. Set it in"
                " `.env` or the shell: DATABASE_URL='postgresql://user:password@host:5432/database?sslmode=verify-full'"
            )

    @property
    def lacks(self) -> str:
        """Its life is not ours."""
        return (
            f"{self._endpoint.url()} is run elsewhere (STACK_ENGINE=external), so it is not started, stopped, copied or"
            " deleted from here, and its logs are not here. Nothing was done. `invoke dump` and `invoke load` work;"
            " unset STACK_ENGINE for a stack here."
        )

    def checks(self) -> list[Check]:
        """Return what can be said of it before a login."""
        return checks_in(Health(self))

    @cached_property
    def _endpoint(self) -> Endpoint:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict

        try:
            # The password is not in what libpq says of a string that it cannot read, but the string may be.
            parts = {name: str(value) for name, value in conninfo_to_dict(self.settings.database_url).items()}
        except ProgrammingError:
            raise Refused(
                "DATABASE_URL is not a PostgreSQL connection string. Write"
                " postgresql://user:password@host:5432/database?sslmode=verify-full; special characters in the password"
                " as %40 and so on."
            ) from None
        user = parts.pop("user", "postgres")
        return Endpoint(
            host=parts.pop("host", "localhost"),
            port=parts.pop("port", "5432"),
            user=user,
            password=parts.pop("password", ""),
            database=parts.pop("dbname", user),
            options=parts,
            ours=False,
        )

    def release(self) -> tuple[str, str]:
        """Return nothing of a start that is not ours, and who may have a newer version."""
        return "", "Ask who runs it for the newest minor release."

    def endpoint(self) -> Endpoint:
        """Return the database's address, with its TLS parameters."""
        return self._endpoint

    def client(
        self, *argv: str, stdin: bool = False, terminal: bool = False, name: str = "",
        into: Mapping[str, str] = NO_OTHER,
    ) -> Command:  # fmt: skip
        """Return the command line of a client program that is at least as new as the server."""
        del stdin, terminal  # a program on this machine has the user's own
        program = client_program(self.root, argv[0], self._server_major(), self.settings.bin_dir)
        parameters = {**self._endpoint.parameters(), **into}
        password = parameters.pop("password")
        environment = {"PGAPPNAME": name, **({"PGPASSWORD": password} if password else {})}
        connection = client_options(argv, parameters)
        return Command([str(program), *connection, *argv[1:]], environment)

    def services(self) -> list[Service]:
        """Return the server; whether it lets us in is for the login to find out."""
        return [Service("postgres", state="running", image="postgresql:external", url=self._endpoint.url())]

    def _server_major(self) -> int:
        import psycopg

        try:
            with psycopg.connect(conninfo({"connect_timeout": "10", **self._endpoint.parameters()})) as connection:
                return connection.info.server_version // 10000
        except psycopg.OperationalError as error:
            raise StackError(
                f"{self._endpoint.url()} does not let us in. It said:\n{str(error).strip()}\n"
                "Mend DATABASE_URL or the server."
            ) from None
