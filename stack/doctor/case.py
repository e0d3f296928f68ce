"""The checkout that `doctor` looks at."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from stack.engines import choose
from stack.engines.base import Data, Engine, Service, need
from stack.ground import settings
from stack.ground.errors import StackError
from stack.ground.volume import Place
from stack.server import pgdata
from stack.server.address import Endpoint
from stack.server.session import LoginFailed, connect
from stack.verbs.causes import explain

CORNERSTONES = (pgdata.VERSION, "pg_hba.conf", "global/pg_control", "global/pg_filenode.map", "global/1262")
"""Files without which no server starts, or nobody gets in; the last tells which databases there are."""


class Case:
    """A checkout that is looked at; each thing is asked for once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def settings(self) -> settings.Settings:
        """What `.env` and the shell say."""
        return settings.load(self.root)

    @cached_property
    def engine(self) -> Engine:
        """The engine that every command would use."""
        return choose.choose(self.root)

    @cached_property
    def endpoint(self) -> Endpoint | None:
        """The database's address; None without a database."""
        return self.engine.endpoint()

    @cached_property
    def services(self) -> dict[str, Service]:
        """What runs, by name."""
        return {service.name: service for service in self.engine.services()}

    @cached_property
    def cluster(self) -> dict[str, str]:
        """The files that tell who made the cluster, and whether it was finished."""
        return self.data.read(*dict.fromkeys((*CORNERSTONES, *self.data.texts)))

    @property
    def data(self) -> Data:
        """Its data. Raises Refused when it is kept elsewhere."""
        return need(self.engine.data, self.engine)

    @property
    def ours(self) -> bool:
        """False for a server that is run elsewhere."""
        return self.engine.data is not None

    @property
    def home(self) -> Place:
        """Where the cluster is, or would be."""
        return self.data.place()

    def rows(self, query: str) -> list[Any]:
        """Ask the database, logged in as a user would be. Raises StackError when it refuses."""
        import psycopg

        assert self.endpoint
        try:
            with connect(self.endpoint) as connection:
                return connection.execute(query.encode()).fetchall()
        except (LoginFailed, psycopg.Error) as error:
            said = str(error).strip()
            why, cure = explain(self.engine, said) or (said, "Type `invoke status`.")
            raise StackError(f"PostgreSQL refused: {why}.", cure=cure) from None
