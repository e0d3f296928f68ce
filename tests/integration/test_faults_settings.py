"""Two hundred `.env` files with slips of the keyboard in them: used or refused, no traceback, and no secret shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from stack.ground.errors import Refused
from stack.ground.settings import load

SECRET, HEX = "Sesam-4711-oeffne", "5e5a" * 16
PARTS = (*SECRET.split("-"), "5e5a5e5a")
WRITTEN = f"""\
# the settings of a test
COMPOSE_PROJECT_NAME=mutated
STACK_ENGINE=docker
STACK_LAYERS=dev
export BIND_ADDRESS=127.0.0.1
POSTGRES_PORT=5433
POSTGRES_USER='somebody'
POSTGRES_PASSWORD="{SECRET}"
POSTGRES_DB=shop # the shop's
CONVEX_PORT=3210
CONVEX_INSTANCE_SECRET={HEX}
DATABASE_URL='postgresql://me:{SECRET}@localhost/shop'
""".encode()
NOISE = [
    *(bytes([byte]) for byte in b"\0\t\n\r\x1b \"#$%'()=\\`{}~/@:x9"),
    *(b"${", b"\xff", b"\xc3", b"\r\n", "é🦊".encode()),
]

slips = st.lists(
    st.tuples(
        st.sampled_from(["insert", "replace", "delete", "double", "cut"]),
        st.integers(0, len(WRITTEN) - 1),
        st.integers(1, 12),
        st.sampled_from(NOISE),
    ),
    min_size=1,
    max_size=4,
)


def mutate(text: bytes, kind: str, at: int, length: int, noise: bytes) -> bytes:
    if kind == "cut":
        return text[:at]
    middle = {"insert": noise, "replace": noise, "delete": b"", "double": text[at : at + length] * 2}[kind]
    return text[:at] + middle + text[at + (0 if kind == "insert" else length) :]


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)
@given(made=slips)
def test_a_slip_in_env_is_used_or_refused(
    made: list[tuple[str, int, int, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp() / "slips"
    root.mkdir(exist_ok=True)
    text = WRITTEN
    for slip in made:
        text = mutate(text, *slip)
    (root / ".env").write_bytes(text)
    said = ""
    try:
        load(root, {})
    except Refused as refused:
        said = str(refused)
    assert not said or str(root / ".env") in said
    assert "\0" not in said
    assert not [part for part in PARTS if part in said], said


def test_what_is_mutated_is_itself_accepted(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(WRITTEN)
    assert load(tmp_path, {}).password == SECRET
