"""An address reads the same to libpq as a URI and as its parts."""

import pytest
from psycopg.conninfo import conninfo_to_dict

from stack.server.address import Endpoint


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("db.example.com", "5432"),
        ("::1", "5433"),
        ("h1,h2", "5432,5433"),
        ("/var/run/postgresql", "5432"),
        ("/tmp/a b:c", "5432"),
        ("@abstract", "5432"),
    ],
)
def test_a_uri_says_what_the_parts_say(host: str, port: str) -> None:
    made = Endpoint(host, port, "me @:/", "p%/ü#?", "my/db", {"sslmode": "require", "options": "-c a=b"})
    assert conninfo_to_dict(made.url(masked=False)) == made.parameters()
    assert "********" in made.url()
