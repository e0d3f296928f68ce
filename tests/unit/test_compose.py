import json
from pathlib import Path
from typing import Any

import pytest

from stack import settings
from stack.compose import Docker, _moment, explain
from stack.process import Refused
from stack.service import Endpoint


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    for name in ("docker-compose.yml", "docker-compose.dev.yml", "docker-compose.mine.yml"):
        (tmp_path / name).touch()
    return Docker(settings.load(tmp_path, {}), tmp_path)


def with_config(docker: Docker, **postgres: Any) -> Docker:
    docker.__dict__["config"] = {"services": {"postgres": postgres}}
    return docker


ENVIRONMENT = {"POSTGRES_USER": "u", "POSTGRES_PASSWORD": "p", "POSTGRES_DB": "d"}


def test_every_compose_command_names_directory_env_file_and_layers_in_order(docker: Docker, tmp_path: Path) -> None:
    assert docker.compose("ps", "-a") == [
        "docker", "compose", "--project-directory", str(tmp_path), "--env-file", "/dev/null",
        "-f", str(tmp_path / "docker-compose.yml"), "-f", str(tmp_path / "docker-compose.dev.yml"), "ps", "-a",
    ]  # fmt: skip


def test_no_layers_is_the_base_alone(tmp_path: Path, docker: Docker) -> None:
    base = Docker(settings.load(tmp_path, {}, layers=""), tmp_path)
    assert base.compose("up").count("-f") == 1


def test_a_layer_without_a_file_is_refused_and_the_others_are_named(tmp_path: Path, docker: Docker) -> None:
    with pytest.raises(Refused, match=r"docker-compose.nope.yml does not exist.* dev, mine"):
        Docker(settings.load(tmp_path, {}, layers="nope"), tmp_path).compose("up")


def test_the_address_is_the_one_that_compose_resolved(docker: Docker) -> None:
    port = {"target": 5432, "published": "6001", "host_ip": "127.0.0.1"}
    assert with_config(docker, ports=[port], environment=ENVIRONMENT).endpoint() == Endpoint(
        "localhost", 6001, "u", "p", "d"
    )


def test_a_port_on_one_address_is_reached_there(docker: Docker) -> None:
    port = {"target": 5432, "published": "6001", "host_ip": "127.0.0.9"}
    endpoint = with_config(docker, ports=[port], environment=ENVIRONMENT).endpoint()
    assert endpoint
    assert endpoint.host == "127.0.0.9"


def test_the_data_directory_is_the_bind_mount_that_compose_resolved(docker: Docker) -> None:
    volumes = [
        {"type": "bind", "source": "/elsewhere", "target": "/var/lib/postgresql/data"},
        {"type": "bind", "source": "/scripts", "target": "/scripts"},
        {"type": "volume", "source": "v", "target": "/v"},
    ]
    assert with_config(docker, volumes=volumes).directories() == {"pg": Path("/elsewhere")}


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is it running?", "does not answer"),
        ("permission denied while trying to connect to the Docker daemon socket", "usermod -aG docker"),
        ("docker: 'compose' is not a docker command.", "no Compose plugin"),
        ("unknown shorthand flag: 'f' in -f", "no Compose plugin"),
        ("yaml: line 3: did not find expected key", "did not find expected key"),
    ],
)
def test_what_docker_says_becomes_what_to_do(stderr: str, message: str) -> None:
    assert message in str(explain(stderr))


def test_progress_is_left_out_of_what_docker_said() -> None:
    said = str(explain(" Container a-postgres  Creating\n Network a_default  Created\nno space left on device\n"))
    assert "no space left on device" in said
    assert "Creating" not in said


def test_time_stamps_with_nanoseconds_and_zones_compare() -> None:
    early, late = "2026-01-01T10:00:00.999000001Z", "2026-01-01T12:00:01.001+02:00"
    assert _moment(early) < _moment(late)
    assert _moment("0001-01-01T00:00:00Z") < _moment(early)


def test_dollars_that_compose_doubled_are_single_again(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = json.dumps({"services": {"postgres": {"environment": {"POSTGRES_PASSWORD": "a$$b$$$$c"}}}})

    class Result:
        returncode, stdout = 0, printed

    monkeypatch.setattr("stack.compose.look", lambda _argv: Result)
    assert docker.config["services"]["postgres"]["environment"]["POSTGRES_PASSWORD"] == "a$b$$c"
