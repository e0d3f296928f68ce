"""A service stands in its layer and in one line of the catalog; the settings, .env.example and the README know both."""

import re

import pytest

from stack.ground import catalog
from stack.ground.run import look
from stack.ground.settings import ROOT

# Those of git's, where there is git: a layer of the user's own is nobody's business here.
_LISTED = look(["git", "-C", str(ROOT), "ls-files", "docker-compose*.yml"]).stdout.split()
FILES = [ROOT / name for name in _LISTED] or sorted(ROOT.glob("docker-compose*.yml"))
EVERYTHING = "\n".join(file.read_text() for file in FILES)


def in_file(service: str) -> str:
    """The lines of a service in the file that makes it."""
    found = re.findall(rf"^  {service}:\n((?:    .*\n|\n|  *#.*\n)+)", EVERYTHING, re.MULTILINE)
    made = [each for each in found if "    image:" in each]  # the others change it
    assert len(made) == 1, f"{len(made)} Compose files that git knows make {service}: `git add` those that are new"
    return str(made[0])


@pytest.mark.parametrize("entry", catalog.SERVICES, ids=lambda entry: entry.name)
def test_an_entry_is_what_its_compose_file_says(entry: catalog.Entry) -> None:
    lines = in_file(entry.name)
    name, default = entry.image
    assert f"${{{name}:-{default}}}" in lines
    name, default = entry.published
    assert re.search(rf"\${{{name}:-{default}}}:{entry.port}\b", lines)
    assert all(f"${{{name}:-{default}}}:" in lines for name, default in entry.also)
    assert (f"- ./data/{entry.leaf}:{entry.home}:z\n" in lines) if entry.leaf else ("./data/" not in lines)


def test_every_service_of_the_files_is_in_the_catalog() -> None:
    made = set(re.findall(r"^  ([a-z][a-z-]*):\n(?:    .*\n)*?    image:", EVERYTHING, re.MULTILINE))
    ends = {name for name in made if '    restart: "no"\n' in in_file(name)}
    assert ends == {"convex-database"}  # which does something and ends
    assert made - ends == {entry.name for entry in catalog.SERVICES}


@pytest.mark.parametrize("entry", catalog.SERVICES, ids=lambda entry: entry.name)
def test_its_settings_stand_where_users_look(entry: catalog.Entry) -> None:
    for place in (".env.example", "README.md"):
        text = (ROOT / place).read_text()
        assert all(name in text for name, _ in (entry.image, entry.published, *entry.also)), place
