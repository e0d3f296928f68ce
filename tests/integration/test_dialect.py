"""Every `.env` that is accepted means the same to Compose and to `stack.settings`. Needs the Compose CLI alone."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values
from hypothesis import HealthCheck, Phase, assume, example, given, note, reject, settings
from hypothesis import strategies as st

from stack.engines.docker.engine import Docker
from stack.ground.catalog import PORTS, SERVICES
from stack.ground.dotenv import read_env_file, refusals
from stack.ground.errors import Refused
from stack.ground.settings import DEFAULTS, load
from tests.integration.checkout import environment

pytestmark = pytest.mark.usefixtures("compose")

NAMES = [f"V{n}" for n in range(8)]
UNSET = "there is no such line"
# What the two readers treat in ways of their own, and some of everything else.
ODD = "'\"\\$#={}`!%&;|<>()[]*?~^:@/,.+- \tanrtx01éß😀\u00a0\u3000\u200b"
plain = st.text(ODD, max_size=12)
several_lines = st.text(ODD + "\n", max_size=12)


def lines(names: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Lines as people write them, and as they should not."""
    values = st.one_of(
        plain,
        st.builds("'{}'".format, several_lines),
        st.builds('"{}"'.format, several_lines),
        st.builds("{} # {}".format, plain, plain),
        st.builds("'{}'{}".format, plain, plain),
        st.builds('"{}" # {}'.format, plain, plain),
    )
    equals = st.sampled_from(["=", "=", "=", " = ", "= ", " =", "=\t"])
    before = st.sampled_from(["", "", "", "export ", "  ", "\t", "export  ", "# "])
    return st.one_of(
        st.builds("{}{}{}{}".format, before, names, equals, values), st.sampled_from(["", " ", "#", "# $x"])
    )


def text(parts: list[str], newline: str, mark: str, end: str) -> str:
    written = [part.replace("\n", newline) for part in parts]
    return mark + newline.join(part for part in written if not refusals(part)) + end


texts = st.builds(
    text, st.lists(lines(st.sampled_from(NAMES)), min_size=20, max_size=60), st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\ufeff"]), st.sampled_from(["", "\n", "\r\n"]),
)  # fmt: skip


def resolved(argv: list[str], folder: Path, environ: Mapping[str, str]) -> Any:
    """Return what `docker compose config` makes of it."""
    result = subprocess.run(argv, check=False, capture_output=True, encoding="utf-8", cwd=folder, env=dict(environ))
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.replace("$$", "$"))


quick = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # each step of shrinking would cost a run of Compose
)


@settings(quick, max_examples=60)
@given(written=texts)
@example(written="V1='two\r\nlines'\r\n")
def test_every_accepted_line_has_one_value(written: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    assume(not refusals(written))
    folder = tmp_path_factory.getbasetemp() / "dialect"
    folder.mkdir(exist_ok=True)
    (folder / ".env").write_bytes(written.encode())
    service = {"image": "i", "environment": {name: f"${{{name}-{UNSET}}}" for name in NAMES}}
    (folder / "compose.yml").write_text(json.dumps({"services": {"s": service}}))
    note(repr(written))
    values = read_env_file(folder / ".env")
    argv = ["docker", "compose", "-f", "compose.yml", "config", "--format", "json"]
    found = resolved(argv, folder, environment())["services"]["s"]["environment"]
    assert {name: values.get(name, UNSET) for name in NAMES} == found
    assert values == dotenv_values(folder / ".env", encoding="utf-8-sig")  # as any other program reads it


words = st.one_of(st.just(""), st.text(ODD, max_size=10), st.characters(exclude_categories=["Cs", "Cc"]))
SETTINGS = {
    "POSTGRES_PASSWORD": words,
    "POSTGRES_USER": words,
    "POSTGRES_DB": words,
    "COMPOSE_PROJECT_NAME": st.sampled_from(["", "one", "two-2", "_3"]),
    "BIND_ADDRESS": st.sampled_from(["", "127.0.0.1", "0.0.0.0", "127.0.0.2"]),
    **{name: st.sampled_from(["", str(40_000 + number), str(50_000 + number)]) for number, name in enumerate(PORTS)},
}
quoted = st.sampled_from(["{}", "'{}'", '"{}"'])


@settings(quick, max_examples=40)
@given(
    file=st.fixed_dictionaries({}, optional={n: st.builds(str.format, quoted, v) for n, v in SETTINGS.items()}),
    shell=st.fixed_dictionaries({}, optional=SETTINGS),
)
def test_every_setting_is_the_same_to_invoke_and_to_plain_compose(
    file: dict[str, str], shell: dict[str, str], template: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp() / "settings"
    root.mkdir(exist_ok=True)
    for name in ("docker-compose.yml", "docker-compose.dev.yml"):
        shutil.copy(template / name, root)
    written = "".join(f"{name}={value}\n" for name, value in file.items())
    assume(not refusals(written))
    (root / ".env").write_text(written, encoding="utf-8")
    environ = environment(**shell)
    try:
        wanted = load(root, environ)
    except Refused:
        reject()
    own = Docker(wanted, root).plan.compose("config", "--format", "json")
    layers = ["-f", "docker-compose.yml", "-f", "docker-compose.dev.yml"]
    for argv in (own, ["docker", "compose", *layers, "config", "--format", "json"]):
        config = resolved(argv, root, environ)
        postgres, backend = config["services"]["postgres"], config["services"]["convex-backend"]
        assert config["name"] == wanted.project
        assert postgres["container_name"] == f"{wanted.project}-postgres"
        assert [postgres["environment"][name] for name in ("POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB")] == [
            wanted.user, wanted.password, wanted.database,
        ]  # fmt: skip
        assert {port["host_ip"] for port in postgres["ports"] + backend["ports"]} == {wanted.bind_address}
        assert postgres["ports"][0]["published"] == str(wanted.ports["POSTGRES_PORT"])
        assert backend["ports"][0]["published"] == str(wanted.ports["CONVEX_PORT"])


def test_the_defaults_are_those_of_the_compose_files(template: Path) -> None:
    layers = ["-f", "docker-compose.yml", "-f", "docker-compose.dev.yml"]
    argv = ["docker", "compose", "--env-file", "/dev/null", *layers, "config", "--format", "json"]
    config = resolved(argv, template, environment())
    assert config["name"] == DEFAULTS["COMPOSE_PROJECT_NAME"]
    entries = [entry for entry in SERVICES if entry.name in config["services"]]
    assert {service["image"] for service in config["services"].values()} == {entry.image[1] for entry in entries}
    published = {port["published"] for service in config["services"].values() for port in service["ports"]}
    assert published == {port for entry in entries for _, port in (entry.published, *entry.also)}
