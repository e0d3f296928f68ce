"""A session on a database, as a client of the user's would have it."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stack.server.address import LIBPQ, Endpoint, conninfo

if TYPE_CHECKING:
    from psycopg import Connection

_ENVIRONMENT = threading.Lock()
"""Held while variables are out of the environment: a second login must not take their absence for the usual."""


class LoginFailed(Exception):
    """The database did not let us in; the message is the server's."""


def connect(endpoint: Endpoint) -> Connection[Any]:
    """Log in as a client of the user's would; each statement commits by itself. Raises LoginFailed."""
    import psycopg

    with _ENVIRONMENT:
        # No parameter says "no service", so the variables themselves must go.
        hidden = {name: os.environ.pop(name) for name in LIBPQ if endpoint.ours and name in os.environ}
        try:
            return psycopg.connect(conninfo({"connect_timeout": "3", **endpoint.parameters()}), autocommit=True)
        except psycopg.OperationalError as error:
            raise LoginFailed(str(error).strip()) from None
        finally:
            os.environ.update(hidden)


def connect_beside(endpoint: Endpoint) -> Connection[Any]:
    """Log in to a database that is not the user's; `postgres` first, since others copy theirs from template1.

    Raises LoginFailed.
    """
    beside = [replace(endpoint, database=name) for name in ("postgres", "template1") if name != endpoint.database]
    try:
        return connect(beside[0])
    except LoginFailed:
        return connect(beside[-1])  # somebody may have dropped `postgres`
