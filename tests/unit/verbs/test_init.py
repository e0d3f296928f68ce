import io
import os
import re
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from dotenv import dotenv_values

from stack.ground import dotenv, ports, settings
from stack.ground.errors import Refused, StackError
from stack.ground.lock import exclusive
from stack.verbs import init


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


@pytest.mark.skipif(not ports.is_free("::1", 0), reason="this machine has no ::1")
@pytest.mark.parametrize(("address", "free"), [("127.0.0.1", False), ("0.0.0.0", False), ("127.0.0.2", True)])
def test_a_port_that_is_listened_on_where_localhost_leads_is_not_free(address: str, free: bool) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        taken = server.getsockname()[1]
        assert ports.is_free(address, taken) is free
        assert bool(ports.also_at_localhost(address, taken)) is not free
    assert ports.is_free(address, taken)


@pytest.mark.skipif(not ports.is_free("::1", 0), reason="this machine has no ::1")
def test_one_server_on_both_addresses_is_not_two() -> None:
    with socket.create_server(("127.0.0.1", 0)) as four:
        port = four.getsockname()[1]
        with socket.create_server(("::1", port), family=socket.AF_INET6):
            assert not ports.also_at_localhost("127.0.0.1", port)
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as both:
        assert not ports.also_at_localhost("127.0.0.1", both.getsockname()[1])


def password(root: Path) -> str:
    return settings.load(root, {}).password


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "POSTGRES_PASSWORD={}\n"),
        ("POSTGRES_PASSWORD=\n", "POSTGRES_PASSWORD={}\n"),
        ("POSTGRES_PASSWORD=postgres\nA=1\n", "POSTGRES_PASSWORD={}\nA=1\n"),
        ("export POSTGRES_PASSWORD='postgres' # mine\n", "export POSTGRES_PASSWORD={} # mine\n"),
        ("# POSTGRES_PASSWORD=postgres\nA=1", "POSTGRES_PASSWORD={}\nA=1"),
    ],
)
def test_a_random_password_takes_the_place_of_the_default(root: Path, before: str, after: str) -> None:
    (root / ".env").write_text(f"# kept\nPOSTGRES_USER=me\n{before}")
    said = init.init(root, isolated=False, password=True)
    assert re.fullmatch(r"[0-9a-f]{32}", password(root))
    assert password(root) not in said
    assert "doctor --fix" not in said
    assert (root / ".env").read_text() == f"# kept\nPOSTGRES_USER=me\n{after.format(password(root))}"


def test_a_random_password_without_a_file_and_with_data(root: Path) -> None:
    (root / "data" / "pg").mkdir(parents=True)
    (root / "data" / "pg" / "PG_VERSION").touch()
    said = init.init(root, isolated=True, password=True)
    assert (root / ".env").stat().st_mode & 0o777 == 0o600
    assert "`invoke doctor --fix`" in said
    assert password(root) not in said
    assert settings.load(root, {}).project == "my-second-checkout"
    assert password(root) != "postgres"


def test_two_random_passwords_differ(root: Path, tmp_path: Path) -> None:
    init.init(root, isolated=False, password=True)
    first = password(root)
    (root / ".env").unlink()
    init.init(root, isolated=False, password=True)
    assert password(root) != first


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("line", ["POSTGRES_PASSWORD=mine", "POSTGRES_PASSWORD=postgres\nPOSTGRES_PASSWORD='my own'"])
def test_a_password_that_the_user_chose_is_not_replaced(root: Path, isolated: bool, line: str) -> None:
    (root / ".env").write_text(line)
    with pytest.raises(Refused, match="invoke doctor --fix"):
        init.init(root, isolated=isolated, password=True)
    assert (root / ".env").read_text() == line


def test_a_password_in_the_shell_wins_and_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "")
    with pytest.raises(Refused, match="unset POSTGRES_PASSWORD"):
        init.init(root, isolated=False, password=True)
    assert not (root / ".env").exists()


def test_a_file_that_others_may_read_is_closed_when_it_comes_to_hold_a_password(root: Path) -> None:
    (root / ".env").write_text("")
    (root / ".env").chmod(0o644)
    init.init(root, isolated=False, password=True)
    assert (root / ".env").stat().st_mode & 0o777 == 0o600


def test_a_file_behind_a_link_is_written_there(root: Path) -> None:
    (root / "mine").write_text("POSTGRES_USER=me\n")
    (root / ".env").symlink_to("mine")
    init.init(root, isolated=False, password=True)
    assert (root / ".env").is_symlink()
    assert "POSTGRES_PASSWORD=" in (root / "mine").read_text()


def test_line_ends_and_values_of_several_lines_stay(root: Path) -> None:
    before = "# mine\r\nA='one'\r\n"
    (root / ".env").write_bytes(f"{before}B=2\r\n".encode())
    init.init(root, isolated=False, password=True)
    assert (root / ".env").read_bytes().decode() == f"{before}B=2\r\nPOSTGRES_PASSWORD={password(root)}\r\n"
    inner = "A='one\nPOSTGRES_PASSWORD=two\n#POSTGRES_PASSWORD=three'\n"
    assert dotenv.assign(inner, "POSTGRES_PASSWORD", "x") == f"{inner}POSTGRES_PASSWORD=x\n"


@pytest.mark.parametrize("isolated", [False, True])
def test_a_link_stays_a_link(root: Path, tmp_path: Path, isolated: bool) -> None:
    (root / ".env").symlink_to(tmp_path / "shared.env")
    init.init(root, isolated=isolated)
    init.init(root, isolated=True)
    assert (root / ".env").is_symlink()
    assert "COMPOSE_PROJECT_NAME=my-second-checkout\n" in (tmp_path / "shared.env").read_text()


@pytest.mark.parametrize("isolated", [False, True])
def test_a_directory_is_told_with_the_cure(root: Path, isolated: bool) -> None:
    (root / ".env").mkdir()
    with pytest.raises(Refused, match=r"is a directory.*`(rmdir .*)`") as told:
        init.init(root, isolated=isolated)
    cure = re.search("`(rmdir .*)`", str(told.value))
    assert cure
    subprocess.run(["bash", "-c", cure[1]], check=True)
    init.init(root, isolated=isolated)
    assert (root / ".env").is_file()


def test_what_another_program_gives_is_neither_waited_for_nor_replaced(root: Path) -> None:
    os.mkfifo(root / ".env")
    assert "left as it is" in init.init(root, isolated=False).replace("was left", "left")
    with pytest.raises(Refused, match=r"no regular file.*COMPOSE_PROJECT_NAME, POSTGRES_PORT"):
        init.init(root, isolated=True)
    assert (root / ".env").is_fifo()


def test_what_cannot_be_read_or_written_is_told(root: Path) -> None:
    (root / ".env").symlink_to("missing/.env")
    with pytest.raises(StackError, match=r"\.env cannot be used: No such file"):
        init.init(root, isolated=False)
    (root / ".env").unlink()
    (root / ".env.example").unlink()
    with pytest.raises(StackError, match=r"\.env\.example cannot be used: No such file"):
        init.init(root, isolated=False)
    (root / ".env").write_bytes(b"POSTGRES_PASSWORD=gr\xfc\xdfe\n")
    with pytest.raises(Refused, match="not UTF-8"):
        init.init(root, isolated=True)
    assert (root / ".env").read_bytes() == b"POSTGRES_PASSWORD=gr\xfc\xdfe\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
def test_a_full_disk_leaves_what_was_there(root: Path) -> None:
    example = (root / ".env.example").read_bytes()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "small", root], check=True)
    try:
        (root / ".env.example").write_bytes(example)
        (root / ".env").write_text("POSTGRES_USER=me\n" + "# mine\n" * 700)
        with (root / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(b"x")
        before = (root / ".env").read_bytes()
        with pytest.raises(StackError, match=r"No space left on device.*as it was"):
            init.init(root, isolated=True)
        assert (root / ".env").read_bytes() == before
    finally:
        subprocess.run(["umount", root], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_the_owner_stays(root: Path) -> None:
    (root / ".env").write_text("POSTGRES_USER=me\n")
    os.chown(root / ".env", 1234, 2345)
    init.init(root, isolated=True)
    there = (root / ".env").stat()
    assert (there.st_uid, there.st_gid) == (1234, 2345)


def test_it_waits_for_another_command_and_two_at_once_write_one_whole_file(tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    shutil.copytree(settings.ROOT / "stack", copy / "stack", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tasks.py", ".env.example"):
        shutil.copy(settings.ROOT / name, copy)
    argv = [sys.executable, "-m", "invoke", "init", "--isolated"]
    with exclusive(copy):
        waiting = [subprocess.Popen(argv, cwd=copy, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        for each in waiting:
            assert each.stderr
            assert "waiting for it to end" in each.stderr.readline()
        assert not (copy / ".env").exists()
    assert [each.wait(60) for each in waiting] == [0, 0]
    for each in waiting:
        assert each.stderr
        each.stderr.close()
    assert settings.load(copy, {}).project == "checkout"


# -- many at once -----------------------------------------------------------------------------------------------

CHOOSE = "import pathlib, sys; from stack.verbs import init; init.init(pathlib.Path(sys.argv[1]), isolated=True)"


def folders(tmp_path: Path, number: int) -> list[Path]:
    """Make checkouts of one name, which are down."""
    made = [tmp_path / str(n) / "app" for n in range(number)]
    for folder in made:
        folder.mkdir(parents=True)
        for name in (".env.example", "docker-compose.yml"):
            shutil.copy(settings.ROOT / name, folder)
    return made


def test_twenty_at_once_have_twenty_names_and_no_port_in_common(tmp_path: Path) -> None:
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    made = folders(tmp_path, 20)
    argv = [sys.executable, "-c", CHOOSE]
    children = [subprocess.Popen([*argv, str(each)], cwd=settings.ROOT, env=env) for each in made]
    assert [child.wait(120) for child in children] == [0] * 20
    chosen = [settings.load(each, {}) for each in made]
    assert len({each.project for each in chosen}) == 20
    assert len({port for each in chosen for port in each.ports.values()}) == 20 * len(ports_of(chosen[0]))


def ports_of(found: settings.Settings) -> set[int]:
    return set(found.ports.values())


def test_what_is_given_to_a_checkout_that_is_down_is_kept_and_free_again_when_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(init.zlib, "crc32", lambda _: 7)  # both would begin at the same ports
    one, two = folders(tmp_path, 2)
    init.init(one, isolated=True)
    init.init(two, isolated=True)
    first, second = settings.load(one, {}), settings.load(two, {})
    assert first.project != second.project
    assert not ports_of(first) & ports_of(second)
    shutil.rmtree(one)
    init.init(two, isolated=True)
    assert ports_of(settings.load(two, {})) == ports_of(first)


def test_without_a_place_for_the_register_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (one,) = folders(tmp_path, 1)
    said = subprocess.run([sys.executable, "-c", CHOOSE, str(one)], check=True, capture_output=True, cwd=settings.ROOT)
    assert b"are not known: what is chosen" in said.stderr
    assert settings.load(one, {}).project == "app"


@pytest.mark.parametrize("before", ['V="5433"#why\n', "V='5433'#why\n", 'V="5433" #why\n', "V=5433 #why\n"])
def test_a_comment_is_no_part_of_a_new_value(before: str) -> None:
    after = dotenv.assign(before, "V", "5443")
    assert after == "V=5443 #why\n"
    assert dotenv_values(stream=io.StringIO(after)) == {"V": "5443"}
