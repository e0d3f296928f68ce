"""Which engine a checkout gets."""

from pathlib import Path

import pytest

from stack.engines import choose
from stack.engines.docker.engine import Docker
from stack.ground import disk
from stack.ground.errors import Refused, StackError
from stack.ground.settings import DEFAULTS


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "data").mkdir()
    return tmp_path


@pytest.fixture
def docker_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Docker, "why_not", lambda _self: "")


@pytest.fixture
def docker_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Docker, "why_not", lambda _self: "Docker does not answer.")


def data(root: Path, *names: str) -> None:
    for name in names:
        (root / "data" / name).mkdir()
        (root / "data" / name / "PG_VERSION").touch()


@pytest.mark.usefixtures("docker_answers")
def test_without_data_it_is_docker_where_docker_answers(root: Path) -> None:
    assert choose.choose(root).name == "docker"


@pytest.mark.usefixtures("docker_is_silent")
def test_without_data_and_without_docker_it_is_embedded_and_says_so_in_one_line(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert choose.choose(root).name == "embedded"
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "no Convex" in said


@pytest.mark.usefixtures("docker_is_silent")
def test_data_in_volumes_needs_docker_and_gets_no_second_database_without_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STACK_LAYERS", "dev,volumes")
    assert choose.choose(root).name == "docker"  # which says itself that it is silent
    data(root, "embedded")
    with pytest.raises(StackError, match="Docker does not answer"):
        choose.choose(root)


@pytest.mark.usefixtures("docker_answers")
def test_embedded_data_keeps_the_embedded_engine_though_docker_answers(root: Path) -> None:
    data(root, "embedded")
    assert choose.choose(root).name == "embedded"


@pytest.mark.usefixtures("docker_is_silent")
@pytest.mark.parametrize("name", ["pg", "convex"])
def test_data_of_containers_never_becomes_a_second_database(root: Path, name: str) -> None:
    data(root, name)
    assert choose.choose(root).name == "docker"  # whose first command says that Docker does not answer


def test_data_that_may_not_be_read_is_data_of_a_container(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "data" / "pg").mkdir()

    def refuse(_self: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert disk.has_data(root / "data" / "pg")


@pytest.mark.usefixtures("docker_answers")
def test_with_data_of_both_it_is_docker_where_docker_answers(root: Path) -> None:
    data(root, "pg", "embedded")
    assert choose.choose(root).name == "docker"


@pytest.mark.usefixtures("docker_is_silent")
def test_with_data_of_both_and_without_docker_it_is_an_error(root: Path) -> None:
    data(root, "pg", "embedded")
    with pytest.raises(StackError, match=r"Docker does not answer.*\n.*STACK_ENGINE=embedded"):
        choose.choose(root)


@pytest.mark.usefixtures("docker_answers")
def test_an_empty_directory_is_no_data(root: Path) -> None:
    (root / "data" / "embedded").mkdir()
    assert choose.choose(root).name == "docker"


@pytest.mark.usefixtures("docker_answers")
def test_database_url_alone_changes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@production.example.com/live")
    chosen = choose.choose(root)
    assert chosen.name == "docker"
    (root / ".env").write_text("DATABASE_URL=postgresql://u:p@production.example.com/live\n")
    assert choose.choose(root).name == "docker"


@pytest.mark.parametrize("name", ["docker", "embedded", "external"])
def test_a_chosen_engine_is_the_one(root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("STACK_ENGINE", name)
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@localhost/d")
    assert choose.choose(root).name == name


def test_external_without_a_url_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACK_ENGINE", "external")
    with pytest.raises(Refused, match="DATABASE_URL is not set"):
        choose.choose(root)
