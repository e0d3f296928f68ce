"""Somebody else's PostgreSQL server: its life is not ours, everything else works."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from stack.process import Refused, StackError
from stack.programs import client_program
from stack.service import Command, Endpoint, Running, Service, conninfo, log_in
from stack.settings import ROOT, Settings


class External:
    """The server that DATABASE_URL names."""

    name = "external"
    sees_files = True
    texts: Mapping[str, str] = MappingProxyType({})

    def __init__(self, settings: Settings, root: Path = ROOT) -> None:
        self.settings = settings
        self.root = root
        if not settings.database_url:
            raise Refused(
                "STACK_ENGINE is external and DATABASE_URL is not set, so there is no server to talk to. Set it in"
                " `.env` or the shell: DATABASE_URL='postgresql://user:password@host:5432/database?sslmode=verify-full'"
            )

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

    def endpoint(self) -> Endpoint:
        """Return the database's address, with its TLS parameters."""
        return self._endpoint

    def client(
        self, *argv: str, stdin: bool = False, terminal: bool = False, name: str = "",
        into: Mapping[str, str] = MappingProxyType({}),
    ) -> Command:  # fmt: skip
        """Return the command line of a client program that is at least as new as the server."""
        del stdin, terminal  # a program on this machine has the user's own
        program = client_program(self.root, argv[0], self._server_major(), self.settings.bin_dir)
        parameters = {**self._endpoint.parameters(), **into}
        password = parameters.pop("password")
        environment = {"PGAPPNAME": name, **({"PGPASSWORD": password} if password else {})}
        connection = log_in(argv, parameters)
        return Command([str(program), *connection, *argv[1:]], environment)

    def platform(self) -> str:
        """Return the server's address."""
        return self._endpoint.url()

    def services(self) -> list[Service]:
        """Return the server; whether it lets us in is for the login to find out."""
        return [Service("postgres", state="running", image="postgresql:external", url=self._endpoint.url())]

    def running(self, service: str) -> str:
        """Return the server's address."""
        if service != "postgres":
            raise Refused(f"There is no {service}: the external engine is a PostgreSQL server that is run elsewhere.")
        return self._endpoint.url()

    def url(self, service: str, target: int) -> str:
        """Return nothing: there are no pages."""
        del service, target
        return ""

    def check_seen(self, services: list[Service]) -> None:
        """Do nothing: its files are elsewhere."""
        del services

    def resume(self) -> None:
        """Do nothing: nobody here can tell that it is paused."""

    def last_words(self, service: str, lines: int = 15) -> str:
        """Return nothing: the log is elsewhere."""
        del service, lines
        return ""

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

    # -- its life is not ours -----------------------------------------------------------------------------

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise Refused(
            f"{self._endpoint.url()} is run elsewhere (STACK_ENGINE=external), so it is not started, stopped or"
            " deleted from here, and its logs are not here. Nothing was done. Unset STACK_ENGINE for a stack here."
        )

    def database(self) -> Running:
        """Refuse: copies of a database on a server that others use are not ours to make."""
        raise Refused(
            f"{self._endpoint.url()} is run elsewhere (STACK_ENGINE=external), and a snapshot would end everybody's"
            " sessions there. Nothing was done. Use `invoke dump` and `invoke load`."
        )

    check_start = check_deletable = volumes = _refuse
    start = stop = restart = pull = logs = directories = holders = disk_usage = delete = missing_images = admin_key = (
        _refuse
    )
    trusted = check_machine = unobtainable = check_name = check_ports = read = major = other_major = shared_memory = (
        _refuse
    )
    identifier = addresses = contents = append = titles = _refuse
