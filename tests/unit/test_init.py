import socket
from pathlib import Path

import pytest

from stack import init, ports, settings


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(init, "projects", dict)
    for name in settings.DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "My Second Checkout"
    folder.mkdir()
    (folder / ".env.example").write_bytes((settings.ROOT / ".env.example").read_bytes())
    return folder


def test_it_copies_the_example_for_the_owner_alone(root: Path) -> None:
    init.init(root, isolated=False)
    assert (root / ".env").read_text() == (root / ".env.example").read_text()
    assert (root / ".env").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_there_is_left_as_it_is(root: Path) -> None:
    (root / ".env").write_text("POSTGRES_USER=me\n")
    assert "left as it is" in init.init(root, isolated=False).replace("was left", "left")
    assert (root / ".env").read_text() == "POSTGRES_USER=me\n"


def test_isolated_picks_a_name_from_the_folder_and_ports_of_its_own(root: Path) -> None:
    init.init(root, isolated=True)
    found = settings.load(root, {})
    assert found.project == "my-second-checkout"
    assert not set(found.ports.values()) & {5433, 3210, 3211, 6791}


def test_isolated_keeps_what_the_user_wrote(root: Path) -> None:
    (root / ".env").write_text("# mine\nPOSTGRES_USER=me\nPOSTGRES_PORT=5433 # the usual\n")
    (root / ".env").chmod(0o640)
    init.init(root, isolated=True)
    text = (root / ".env").read_text()
    assert text.startswith("# mine\nPOSTGRES_USER=me\nPOSTGRES_PORT=")
    assert text.count("POSTGRES_PORT=") == 1
    assert settings.load(root, {}).ports["POSTGRES_PORT"] != 5433
    assert (root / ".env").stat().st_mode & 0o777 == 0o640


def test_a_name_that_another_checkout_uses_is_not_taken(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "projects", lambda: {"my-second-checkout": Path("/elsewhere")})
    init.init(root, isolated=True)
    assert settings.load(root, {}).project.startswith("my-second-checkout-")


def test_a_port_that_is_listened_on_is_passed_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        assert not ports.is_free("127.0.0.1", taken)
    first = init.free_ports(0, lambda port: port != 5443)
    assert first["POSTGRES_PORT"] == "5453"
    assert first["CONVEX_PORT"] == "3230"
