import io

import pytest
from dotenv import dotenv_values

from stack.ground.dotenv import line
from stack.ground.errors import Refused
from stack.ground.talk import human
from stack.server.address import Endpoint
from stack.verbs.status import _tag

HARD = "p'a ss\"w$rd#\\é@:/%"


def test_the_url_carries_any_password_and_masks_it_unless_asked() -> None:
    from psycopg.conninfo import conninfo_to_dict

    endpoint = Endpoint("localhost", 5433, "us er", HARD, "d/b")
    parsed = conninfo_to_dict(endpoint.url(masked=False))
    assert (parsed["user"], parsed["password"], parsed["dbname"]) == ("us er", HARD, "d/b")
    assert "ss" not in endpoint.url()


@pytest.mark.parametrize("value", ["plain", "two words", "it's", 'say "hi"', "a$b", "a#b", "", "a\\b", "é"])
def test_a_dotenv_line_is_read_back_as_it_was(value: str) -> None:
    assert dotenv_values(stream=io.StringIO(line("V", value)))["V"] == value


def test_a_value_that_no_dotenv_line_can_carry_is_refused() -> None:
    with pytest.raises(Refused, match="--format shell"):
        line("PGPASSWORD", "a'b$c")


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("ghcr.io/x/y:19431ea0dd90bc55ae58dbbd06d9aa045f97336f@sha256:abc", "19431ea0dd90"),
        ("postgres:17.11-trixie@sha256:abc", "17.11-trixie"),
        ("localhost:5000/postgres", ""),
    ],
)
def test_a_version_is_the_tag(image: str, version: str) -> None:
    assert _tag(image) == version


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (48_000_000, "48 MB"), (2 * 10**12, "2.0 TB")]
)
def test_sizes_are_for_people(size: int, text: str) -> None:
    assert human(size) == text
