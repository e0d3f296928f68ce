import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stack.ground import dotenv, settings
from stack.ground.errors import Refused
from stack.verbs.init import init
from tests.unit.ground.test_catalog import EVERYTHING

ROOT = settings.ROOT


def write(folder: Path, text: str) -> Path:
    (folder / ".env").write_bytes(text.encode())
    return folder


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("V=a", "a"),
        ("export V=a", "a"),
        ("  V = a  ", "a"),
        ("V=a # comment", "a"),
        ("V=a#b", "a#b"),
        ("V='pa$word'", "pa$word"),
        ("V='a' # comment", "a"),
        ('V="a\\"b"', 'a"b'),
        ("V=a\nV=b", "b"),
        ("V=a\r\nW=b", "a"),
        ("\ufeffV=a", "a"),
        ('V="two\nlines"', "two\nlines"),
        ("V=", ""),
        ("V=it's", "it's"),
        ("V=C:\\data", "C:\\data"),
        ("# V=x\n\nV=ü", "ü"),
    ],
)
def test_a_line_that_both_readers_agree_on_is_accepted(tmp_path: Path, line: str, value: str) -> None:
    assert dotenv.read_env_file(write(tmp_path, line) / ".env")["V"] == value


@pytest.mark.parametrize(
    "line",
    [
        "V=pa$word",
        'V="pa$word"',
        "V='${X}'",
        "V=pa$$word",
        "V=${X-d}",
        "V=a\t# c",
        "V= #abc",
        'V="abc"def',
        "V='abc",
        "V x=1",
        "V: x",
        "V",
        "export V",
        "V='a\\\\b'",
        "V=a\rW=b",
        "V=a\x00b",
        "V='two\r\nlines'",
    ],
)
def test_a_line_that_the_readers_disagree_on_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    with pytest.raises(Refused, match="line 3: ") as refused:
        settings.load(write(tmp_path, f"# first\nA=1\n{line}\nB=2\n"), {})
    assert refused.value.code == 2


def test_a_refusal_shows_how_to_write_the_line_and_never_its_value(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        settings.load(write(tmp_path, 'POSTGRES_PASSWORD="hunter2$x"'), {})
    assert "POSTGRES_PASSWORD='…'" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_every_refused_line_is_named_at_once() -> None:
    assert [number for number, _ in dotenv.refusals("A=$x\nB=1\nC='two\nlines'\nD=$y\n")] == [1, 5]


def test_the_shell_wins_over_the_file_and_empty_means_default(tmp_path: Path) -> None:
    folder = write(tmp_path, "POSTGRES_USER=file\nPOSTGRES_DB=\nPOSTGRES_PORT=6000\n")
    found = settings.load(folder, {"POSTGRES_USER": "shell", "POSTGRES_PORT": ""})
    assert (found.user, found.database, found.ports["POSTGRES_PORT"]) == ("shell", "convex_poc", 5433)


def test_without_a_file_the_defaults_hold_and_compose_is_given_none(tmp_path: Path) -> None:
    found = settings.load(tmp_path, {})
    assert (found.project, found.layers, found.password) == ("convex-poc", ("dev",), "postgres")
    assert found.env_file == Path("/dev/null")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POSTGRES_PORT", "0"),
        ("POSTGRES_PORT", "65536"),
        ("POSTGRES_PORT", "5433x"),
        ("POSTGRES_PORT", "٥"),
        ("COMPOSE_PROJECT_NAME", "Convex"),
        ("COMPOSE_PROJECT_NAME", "-x"),
        ("BIND_ADDRESS", "localhost"),
        ("POSTGRES_DB", "a=b"),
        ("POSTGRES_DB", "postgresql://x"),
        ("POSTGRES_DB", "d" * 64),
        ("POSTGRES_USER", "pg_me"),
        ("POSTGRES_USER", "it's me"),
        ("POSTGRES_USER", "\udcff"),
        ("POSTGRES_PASSWORD", "two\nlines"),
        ("STACK_ENGINE", "podman"),
        ("CONVEX_INSTANCE_SECRET", "abc"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(Refused, match=name):
        settings.load(tmp_path, {name: value})


def test_a_secret_is_not_shown_when_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        settings.load(tmp_path, {"CONVEX_INSTANCE_SECRET": "hunter2"})
    assert "hunter2" not in str(refused.value)


def test_a_port_that_two_settings_name_is_for_the_engine_to_judge(tmp_path: Path) -> None:
    assert settings.load(tmp_path, {"CONVEX_PORT": "3211"}).ports["CONVEX_PORT"] == 3211


@pytest.mark.parametrize(("given", "layers"), [("", ()), ("dev", ("dev",)), ("dev,mine", ("dev", "mine"))])
def test_layers_can_be_chosen_and_none_is_a_choice(tmp_path: Path, given: str, layers: tuple[str, ...]) -> None:
    assert settings.load(tmp_path, {}, layers=given).layers == layers


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"V=\xff\xfe")
    with pytest.raises(Refused, match="UTF-8"):
        settings.load(tmp_path, {})


def test_a_directory_in_its_place_is_refused_and_the_cure_works(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    with pytest.raises(Refused, match="`invoke init` writes a new one") as refused:
        settings.load(tmp_path, {})
    subprocess.run(["sh", "-c", refused.value.cure.split("`")[1]], check=True)
    (tmp_path / ".env.example").touch()
    assert init(tmp_path, isolated=False).startswith("Wrote")


@pytest.mark.parametrize("number", [0, 1])
def test_each_cure_for_one_that_may_not_be_read_works(tmp_path: Path, number: int) -> None:
    (tmp_path / ".env").write_text("POSTGRES_USER=me")
    (tmp_path / ".env").chmod(0)
    (tmp_path / ".env.example").touch()
    code = f"from pathlib import Path; from stack.ground import settings; settings.load(Path({str(tmp_path)!r}), {{}})"
    user = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"] * (os.geteuid() == 0)
    said = subprocess.run([*user, sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    assert "Permission denied" in said.stderr
    cures = [words for words in said.stderr.split("`")[1::2] if words.startswith(("chmod", "mv"))]
    subprocess.run(["sh", "-c", cures[number]], check=True)
    assert init(tmp_path, isolated=False).startswith(f"Wrote {tmp_path}" if number else f"{tmp_path}/.env is there")
    assert settings.load(tmp_path, {}).user == ("postgres" if number else "me")


def test_the_compose_files_and_the_settings_have_the_same_defaults() -> None:
    composed = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", EVERYTHING))
    elsewhere = {"STACK_ENGINE", "STACK_LAYERS", "STACK_SPARE", "STACK_SNAPSHOT", "POSTGRES_BIN_DIR", "DATABASE_URL"}
    ours = {name: value for name, value in settings.DEFAULTS.items() if name not in elsewhere}
    assert composed == ours
    assert len(set(re.findall(r"\$\{\w+:-[^}]*\}", EVERYTHING))) == len(composed), "a variable has two defaults"


def test_the_example_lists_every_setting_with_its_default() -> None:
    example = dict(re.findall(r"^# ([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert example == settings.DEFAULTS


def test_the_example_is_accepted_with_every_setting_switched_on(tmp_path: Path) -> None:
    text = re.sub(r"^# ([A-Z_]+=)", r"\1", (ROOT / ".env.example").read_text(), flags=re.MULTILINE)
    assert settings.load(write(tmp_path, text), {}) == settings.load(tmp_path, {})


def test_the_readme_names_every_setting_with_its_default() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    shown = {name: default.strip("`") for name, default in rows}
    assert shown.keys() == settings.DEFAULTS.keys()
    for name, default in settings.DEFAULTS.items():
        wanted = {default} if default else {"unset", "made with the data"}
        assert shown[name] in wanted or name.endswith("_IMAGE")
