"""A service stands in its layer and in one line of the catalog; the settings, .env.example and the README know both."""

import re

import pytest

from stack.ground import catalog
from stack.ground.settings import DEFAULTS, PORTS, ROOT

EVERYTHING = "\n".join(file.read_text() for file in sorted(ROOT.glob("docker-compose*.yml")))


def in_file(service: str) -> str:
    """The lines of a service in the file that makes it."""
    (found,) = re.findall(rf"^  {service}:\n((?:    .*\n|\n|  *#.*\n)+)", EVERYTHING, re.MULTILINE)
    return str(found)


@pytest.mark.parametrize("entry", catalog.SERVICES, ids=lambda entry: entry.name)
def test_an_entry_is_what_its_compose_file_says(entry: catalog.Entry) -> None:
    lines = in_file(entry.name)
    assert f"${{{entry.image}:-{DEFAULTS[entry.image]}}}" in lines
    assert re.search(rf"\${{{entry.published}:-{DEFAULTS[entry.published]}}}:{entry.port}\b", lines)
    assert (f"./data/{entry.leaf}:{entry.home}" in lines) if entry.leaf else ("./data/" not in lines)


def test_every_service_of_the_files_is_in_the_catalog() -> None:
    made = set(re.findall(r"^  ([a-z][a-z-]*):\n(?:    .*\n)*?    image:", EVERYTHING, re.MULTILINE))
    assert made == {entry.name for entry in catalog.SERVICES}


@pytest.mark.parametrize("entry", catalog.SERVICES, ids=lambda entry: entry.name)
def test_its_settings_stand_where_users_look(entry: catalog.Entry) -> None:
    assert entry.published in PORTS
    for place in (".env.example", "README.md"):
        text = (ROOT / place).read_text()
        assert all(name in text for name in (entry.image, entry.published)), place
