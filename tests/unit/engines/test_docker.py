import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stack.engines.docker.containers import _moment
from stack.engines.docker.engine import Docker
from stack.engines.docker.published import publishes
from stack.engines.docker.words import _version, explain, too_old
from stack.ground import settings
from stack.ground.errors import Refused
from stack.server.address import Endpoint


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    for name in ("docker-compose.yml", "docker-compose.dev.yml", "docker-compose.mine.yml"):
        (tmp_path / name).touch()
    return Docker(settings.load(tmp_path, {}), tmp_path)


def with_config(docker: Docker, **postgres: Any) -> Docker:
    docker.plan.__dict__["config"] = {"services": {"postgres": postgres}}
    return docker


ENVIRONMENT = {"POSTGRES_USER": "u", "POSTGRES_PASSWORD": "p", "POSTGRES_DB": "d"}


def test_every_compose_command_names_directory_env_file_and_layers_in_order(docker: Docker, tmp_path: Path) -> None:
    assert docker.plan.compose("ps", "-a") == [
        "docker", "compose", "--project-directory", str(tmp_path), "--env-file", "/dev/null",
        "-f", str(tmp_path / "docker-compose.yml"), "-f", str(tmp_path / "docker-compose.dev.yml"), "ps", "-a",
    ]  # fmt: skip


def test_no_layers_is_the_base_alone(tmp_path: Path, docker: Docker) -> None:
    base = Docker(settings.load(tmp_path, {}, layers=""), tmp_path)
    assert base.plan.compose("up").count("-f") == 1


def test_a_layer_without_a_file_is_refused_and_the_others_are_named(tmp_path: Path, docker: Docker) -> None:
    with pytest.raises(Refused, match=r"docker-compose.nope.yml does not exist.* dev, mine"):
        Docker(settings.load(tmp_path, {}, layers="nope"), tmp_path).plan.compose("up")


def test_the_address_is_the_one_that_compose_resolved(docker: Docker) -> None:
    port = {"target": 5432, "published": "6001", "host_ip": "127.0.0.1"}
    assert with_config(docker, ports=[port], environment=ENVIRONMENT).endpoint() == Endpoint(
        "127.0.0.1", 6001, "u", "p", "d"
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
    assert with_config(docker, volumes=volumes).data.directories() == {"pg": Path("/elsewhere")}


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is it running?", "does not answer"),
        ("permission denied while trying to connect to the Docker daemon socket", "usermod -aG docker"),
        ("docker: 'compose' is not a docker command.", "no Compose plugin"),
        ("unknown shorthand flag: 'f' in -f", "no Compose plugin"),
        ("unknown flag: --short", "no Compose plugin"),
        ("failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is", "does not answer"),
        ("yaml: line 3: did not find expected key", "did not find expected key"),
    ],
)
def test_what_docker_says_becomes_what_to_do(stderr: str, message: str) -> None:
    assert message in str(explain(stderr))


def test_where_docker_was_asked_is_in_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Cannot connect to the Docker daemon at unix:///x"
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    assert "unset" not in str(explain(said))
    monkeypatch.setenv("DOCKER_HOST", "unix:///x")
    assert "unset DOCKER_HOST, then repeat" in str(explain(said))


def test_a_folder_that_docker_desktop_may_not_see_is_named() -> None:
    said = str(explain(  # palico-ai/palico-ai#160
        "Error response from daemon: Mounts denied: \nThe path /Volumes/x/data/pg is not shared from the host and is"
        " not known to Docker.\nYou can configure shared paths from Docker -> Preferences... -> Resources -> File"
        " Sharing."
    ))  # fmt: skip
    assert "Docker Desktop may not see /Volumes/x/data/pg. It said:\n" in said
    assert "Share that folder" in said


@pytest.mark.parametrize(
    ("said", "asked", "services"),
    [
        # docker/compose#12977
        ("Error response from daemon: no command specified", {"nothing:1": "null null"}, ["mine"]),
        ("Cannot create container for service x: No command specified", {"nothing:1": "[] []"}, ["mine"]),
        # frostyard/intuneme#51
        ("Error: no command or entrypoint provided, and no CMD or ENTRYPOINT from image", {"nothing:1": "null []"},
         ["mine"]),
        ("no command specified", {"nothing:1": "null null", "server:1": "null null"}, ["mine", "postgres"]),
        ("no command specified", {}, []),  # the images are as they should be, or cannot be asked
        ("no command specified", {"nothing:1": ""}, []),
    ],
)  # fmt: skip
def test_an_image_without_a_command_is_named_with_its_service(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, said: str, asked: dict[str, str], services: list[str]
) -> None:
    docker.plan.__dict__["config"] = {
        "services": {
            "mine": {"image": "nothing:1"},
            "postgres": {"image": "server:1"},
            "convex-backend": {"image": "nothing:2", "entrypoint": ["sh"]},
            "other": {"image": "nothing:1", "command": ["sh"]},
        }
    }

    class Told:
        def __init__(self, argv: list[str]) -> None:
            self.stdout = {"nothing:2": "null null", **asked}.get(argv[-1], '["postgres"] ["docker-entrypoint.sh"]')

    monkeypatch.setattr("stack.engines.docker.images.look", Told)
    error = docker.images.explain(f" Container a-mine  Creating\n{said}\n")
    assert said.strip() in error.what
    assert [
        name for name in ("mine", "postgres", "convex-backend", "other") if f"(of {name})" in error.what
    ] == services
    assert ("give the service a `command:`" in error.cure) == bool(services)
    assert ("(POSTGRES_IMAGE)" in error.cure) == ("postgres" in services)


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

    monkeypatch.setattr("stack.engines.docker.plan.look", lambda _argv: Result)
    assert docker.plan.config["services"]["postgres"]["environment"]["POSTGRES_PASSWORD"] == "a$b$$c"


@pytest.mark.parametrize(
    ("ports", "address", "number", "published"),
    [
        ("127.0.0.1:5433->5432/tcp", "127.0.0.1", 5433, True),
        ("127.0.0.1:5433->5432/tcp", "0.0.0.0", 5433, True),
        ("0.0.0.0:5433->5432/tcp, :::5433->5432/tcp", "127.0.0.1", 5433, True),
        ("127.0.0.2:5433->5432/tcp", "127.0.0.1", 5433, False),
        ("127.0.0.1:3210-3211->3210-3211/tcp", "127.0.0.1", 3211, True),
        ("127.0.0.1:3210-3211->3210-3211/tcp", "127.0.0.1", 3212, False),
        ("80/tcp, 127.0.0.1:53->53/udp", "127.0.0.1", 53, False),
        ("", "127.0.0.1", 5433, False),
        ("0.0.0.0:5433->5432/tcp, :::5433->5432/tcp", "::1", 5433, True),
        ("0.0.0.0:5433->5432/tcp, [::]:5433->5432/tcp", "::1", 5433, True),
        ("::1:5433->5432/tcp", "::1", 5433, True),
        ("[::1]:5430-5433->5430-5433/tcp", "::1", 5433, True),
        (":5433->5432/tcp", "::1", 5433, True),
        ("[fd00::1]:5433->5432/tcp", "::1", 5433, False),
        ("0.0.0.0:5433->5432/tcp", "::1", 5433, False),
        ("127.0.0.1:5433->5432/tcp", "::1", 5433, False),
        ("[::1]:5433->5432/tcp", "127.0.0.1", 5433, False),
    ],
)
def test_who_publishes_a_port_is_read_from_docker_ps(ports: str, address: str, number: int, published: bool) -> None:
    assert publishes(ports, address, number) is published


@pytest.mark.parametrize(
    ("told", "version"), [("v2.26.1-4", (2, 26)), ("5.0", (5, 0)), ("26.1.5+dfsg1", (26, 1)), ("2", (2,))]
)
def test_versions_are_compared_as_integers(told: str, version: tuple[int, ...]) -> None:
    assert _version(told) == version
    assert (_version(told) < (2, 24)) is (told == "2")
    assert _version("dev") > (99, 0)


@pytest.mark.parametrize(
    "said",
    [
        "Bind for 127.0.0.1:6001 failed: port is already allocated",
        "listen tcp4 127.0.0.1:6001: bind: address already in use",
        "failed to bind host port for 127.0.0.1:6001:172.18.0.2:5432/tcp: address already in use",
        "failed to bind host port 127.0.0.1:6001/tcp: address already in use",
        "Bind for ::1:6001 failed: port is already allocated",
        "Bind for :::6001 failed: port is already allocated",
        "listen tcp6 [::1]:6001: bind: address already in use",
        "failed to bind host port [::]:6001/tcp: address already in use",
        # dataelement/bisheng#1368
        "Ports are not available: exposing port TCP 0.0.0.0:6001 -> 127.0.0.1:0: listen tcp 0.0.0.0:6001: bind: Only"
        " one usage of each socket address (protocol/network address/port) is normally permitted.",
    ],
)
def test_a_port_that_docker_finds_taken_is_named_with_its_holder(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stack.engines.docker.words.look", lambda _argv: Nothing)
    monkeypatch.setattr("stack.ground.ports.holder", lambda port, _address: f"the holder of {port}")
    assert str(explain(said)).startswith("Port 6001 is taken by the holder of 6001. Stop that,")


def test_a_compose_that_is_too_old_is_the_reason_whatever_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        stdout = "2.17.3\n"

    monkeypatch.setattr("stack.engines.docker.words.look", lambda argv: Old if "compose" in argv else Nothing)
    said = "services.postgres.healthcheck Additional property start_interval is not allowed"
    assert "Compose 2.17.3 is too old: the stack needs 2.24 or newer" in str(explain(said))


class Nothing:
    stdout = ""


@pytest.mark.parametrize(
    ("image", "asked"),
    [("localhost:5000/a:1@sha256:0f", "localhost:5000/a@sha256:0f"), ("a:1", "a:1"), ("a@sha256:0f", "a@sha256:0f")],
)
def test_a_registry_is_asked_for_the_digest(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, image: str, asked: str
) -> None:
    class Nowhere:
        returncode = 1

        def __init__(self, argv: list[str], **_options: object) -> None:
            self.stderr = f"no {argv[-1]} here\n"

    monkeypatch.setattr("stack.engines.docker.images.look", Nowhere)
    assert docker.images.why_not(image) == f"no {asked} here"


ROW = {"id": "x", "project": "convex-poc", "state": "running", "ports": "", "name": "mine"}


@pytest.mark.parametrize(
    ("row", "taken"),
    [
        ({}, "Port 6001 is taken by the process"),
        ({"ports": "127.0.0.1:6001->5432/tcp"}, ""),
        ({"state": "restarting"}, ""),
        ({"ports": "127.0.0.1:6001->5432/tcp", "project": "", "name": "foreign"}, "by the container foreign"),
    ],
)
def test_a_port_of_our_own_is_not_taken(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, row: dict[str, str], taken: str
) -> None:
    monkeypatch.setattr(
        "stack.ground.ports.why_not_free", lambda _address, port: f"Port {port} is taken by the process"
    )
    no_bindings = SimpleNamespace(stdout="{}\n")
    monkeypatch.setattr("stack.engines.docker.preflight.look", lambda _argv: no_bindings)
    assert taken in docker.preflight._taken("127.0.0.1", 6001, [{**ROW, **row}])
    assert bool(taken) == bool(docker.preflight._taken("127.0.0.1", 6001, [{**ROW, **row}]))


# -- podman, whose words are those of 5.4.2 to Compose 2.26, as they were seen -----------------------------------------


def test_podman_counts_otherwise_and_is_not_too_old() -> None:
    assert too_old({"Engine": "podman 5.4.2", "Compose": "2.26.1"}) is None
    assert "Compose 2.23.0 is too old" in str(too_old({"Engine": "podman 5.4.2", "Compose": "2.23.0"}))
    assert "Engine 24.0.7 is too old" in str(too_old({"Engine": "24.0.7", "Compose": "2.26.1"}))


REFUSED = "can't set healthcheck.start_interval as feature require Docker Engine v25 or later"


@pytest.mark.parametrize(
    ("engine", "said", "other"),
    [
        ("podman 5.4.2", REFUSED, True),
        ("24.0.7", REFUSED, False),  # update it, we say
        ("podman 5.4.2", "no space left on device", False),
        ("", REFUSED, False),
    ],
)
def test_only_podman_is_started_without_what_it_refuses(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, engine: str, said: str, other: bool
) -> None:
    class Told:
        def __init__(self, argv: list[str]) -> None:
            assert argv[:2] == ["docker", "version"]
            self.stdout = f"{engine}\n"

    monkeypatch.setattr("stack.engines.docker.engine.look", Told)
    docker.plan.__dict__["config"] = {
        "services": {"a": {"healthcheck": {"start_interval": "1s"}}, "b": {"healthcheck": {"interval": "1s"}}, "c": {}}
    }
    found = docker._for_podman(f" Container a  Creating\n{said}\n")
    assert (found is not None) == other
    if found:
        argv, layer = found
        assert argv[argv.index("up") - 2 :] == ["-f", "-", "up", "--detach", "--pull", "never"]
        assert layer == 'services:\n  "a": {healthcheck: {start_interval: !reset null, interval: 5s}}\n'


@pytest.mark.parametrize(
    ("ports", "bound", "ours"),
    [
        ("127.0.0.1:6000->3210/tcp", [("127.0.0.1", "6000"), ("127.0.0.1", "6001")], True),
        ("127.0.0.1:6000->3210/tcp", [("", "6001")], True),
        ("127.0.0.1:6000->3210/tcp", [("127.0.0.1", "6000")], False),
        ("127.0.0.1:6000->3210/tcp", [("127.0.0.2", "6001")], False),
        ("", [], False),
    ],
)
def test_the_second_of_two_adjacent_ports_that_podman_leaves_out_is_ours(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, ports: str, bound: list[tuple[str, str]], ours: bool
) -> None:
    class Told:
        def __init__(self, argv: list[str]) -> None:
            assert argv[-1] == "x"
            few = [{"HostIp": address, "HostPort": port} for address, port in bound]
            self.stdout = json.dumps({f"{number}/tcp": [each] for number, each in enumerate(few)} or None) + "\n"

    monkeypatch.setattr("stack.engines.docker.preflight.look", Told)
    monkeypatch.setattr("stack.ground.ports.why_not_free", lambda _address, port: f"Port {port} is taken.")
    row = {**ROW, "id": "x", "ports": ports}
    assert docker.preflight._taken("127.0.0.1", 6001, [row]) == ("" if ours else "Port 6001 is taken.")
    assert docker.preflight._taken("127.0.0.1", 6001, [{**row, "project": "anothers"}]) == "Port 6001 is taken."


@pytest.mark.parametrize(
    ("said", "missing"),
    [
        ("Error response from daemon: No such image: a:1", True),
        ("Error: a:1: image not known", True),
        ("Cannot connect to the Docker daemon at unix:///x", False),
        ("", False),
    ],
)
def test_an_image_that_is_not_here(docker: Docker, monkeypatch: pytest.MonkeyPatch, said: str, missing: bool) -> None:
    class Told:
        stderr = said

    monkeypatch.setattr("stack.engines.docker.images.look", lambda _argv: Told)
    assert with_config(docker, image="a:1").images.missing() == ["a:1"] * missing


# -- machines with SELinux ------------------------------------------------------------------------------------------


def test_a_container_of_ours_may_look_into_a_directory_that_has_no_label(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`docker run --security-opt label=disable`, as docs.docker.com has it; without SELinux it changes nothing."""
    asked: list[list[str]] = []

    class Told:
        returncode = 0

        def __init__(self, argv: list[str], **_options: object) -> None:
            asked.append(argv)

    with_config(docker, image="server:1")
    monkeypatch.setattr("stack.engines.docker.data.look", Told)
    monkeypatch.setattr(docker.containers, "own", list)
    docker.data._in_throwaway(docker.root / "data/pg", "du", "-sk", "/data")
    (argv,) = [each for each in asked if each[:2] == ["docker", "run"]]
    assert argv[argv.index("--security-opt") + 1] == "label=disable"
    assert argv[-4:] == ["du", "server:1", "-sk", "/data"]


def test_the_files_as_they_are_shipped_say_nothing_of_directories_that_compose_must_be_asked_of() -> None:
    """It takes 0.17 s, before every start."""
    assert not Docker(settings.load(settings.ROOT, {}, layers="dev"), settings.ROOT).plan._may_move()
    assert Docker(settings.load(settings.ROOT, {}, layers="dev,volumes"), settings.ROOT).plan._may_move()


# -- what newer clients list ----------------------------------------------------------------------------------------


def test_a_hooks_container_is_no_service(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose 5.3 runs `pre_start` in a container with our labels, but for the folder's, and leaves one that failed."""
    name = docker.plan.settings.project
    hook = [
        "1",
        f"{name}-postgres-pre_start-1",
        "running",
        "Up",
        "",
        "",
        name,
        "postgres",
        "",
        "",
        "False",
        "pre_start",
    ]
    real = ["2", f"{name}-postgres", "running", "Up", "", "", name, "postgres", str(docker.root), "", "False", ""]
    monkeypatch.setattr(docker.containers, "ask", lambda *_: "\n".join(map("\t".join, (hook, real))))
    assert docker.containers.running("postgres") == "2"
    assert [row["id"] for row in docker.containers.own()] == ["2"]
    assert len(docker.containers.rows()) == 2  # it may have the data


def test_what_something_else_provides_has_no_container(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    services = {"postgres": {"image": "x"}, "cloud": {"provider": {"type": "x"}}}
    docker.plan.__dict__["config"] = {"services": services}
    monkeypatch.setattr(docker.containers, "ask", lambda *_: "")
    monkeypatch.setattr(docker.plan, "endpoint", lambda: None)
    assert [each.name for each in docker.services()] == ["postgres"]


def test_a_directory_that_docker_desktop_calls_otherwise_is_ours(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On WSL2 it tells a place in its own machine, with a hash."""
    bound = "/run/desktop/mnt/host/wsl/docker-desktop-bind-mounts/Ubuntu/0f1e2d"
    home = "/var/lib/postgresql/data"
    own = {"type": "bind", "source": str(docker.root / "data/pg"), "target": home}
    with_config(docker, volumes=[own], environment=ENVIRONMENT)
    mounts = [{"Type": "bind", "Source": bound, "Destination": home}]
    ports = {"5432/tcp": [{"HostIp": "127.0.0.1", "HostPort": "6001"}]}
    monkeypatch.setattr(docker.containers, "running", lambda _: "x")
    told = "\t".join(map(json.dumps, ([f"{name}={text}" for name, text in ENVIRONMENT.items()], mounts, ports)))
    monkeypatch.setattr(docker.containers, "ask", lambda *_: told)
    monkeypatch.setattr(docker.plan, "refuse_if_changed", lambda _: ENVIRONMENT)
    assert docker.inside.running().directory == docker.root / "data/pg"
