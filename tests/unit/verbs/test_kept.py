"""What a reset keeps goes with the data, and is the first to go; what copies it in the background is waited for."""

import fcntl
import threading
import time
from pathlib import Path

import pytest

from stack.ground import disk
from stack.verbs import kept, wipe
from tests.fake import FakeEngine


@pytest.fixture
def engine(tmp_path: Path) -> FakeEngine:
    for leaf in ("pg", ".after-reset-1", ".after-reset-1-next"):
        (tmp_path / "data" / leaf).mkdir(parents=True)
    (tmp_path / "data" / ".after-reset").write_text("{}")
    return FakeEngine(root=tmp_path)


def left(engine: FakeEngine) -> set[str]:
    return {path.name for path in (engine.root / "data").iterdir()}


def test_it_gives_way_when_room_is_short_and_not_before(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "free", lambda _: 2_000_000_000)
    kept.give_way(engine)
    assert len(left(engine)) == 4
    monkeypatch.setattr(disk, "free", lambda _: 900_000_000)
    kept.give_way(engine)
    assert left(engine) == {"pg"}


@pytest.mark.parametrize("service", ["", "pg", "convex"])
def test_it_goes_with_the_database(engine: FakeEngine, service: str) -> None:
    wipe.ask_and_wipe(engine, service, yes=True)
    assert len(left(engine)) == (4 if service == "convex" else 0)


def test_without_data_it_goes_too(engine: FakeEngine) -> None:
    (engine.root / "data" / "pg").rmdir()
    wipe.ask_and_wipe(engine, yes=True, dry_run=True)
    assert len(left(engine)) == 3
    wipe.ask_and_wipe(engine, yes=True)
    assert left(engine) == set()


def test_a_copy_that_is_being_made_is_waited_for(engine: FakeEngine) -> None:
    with (engine.root / "data" / ".after-reset").open() as marker:
        fcntl.flock(marker, fcntl.LOCK_EX)
        waiting = threading.Thread(target=wipe.give_up_kept, args=[engine])
        waiting.start()
        time.sleep(0.3)
        assert len(left(engine)) == 4
    waiting.join()
    assert left(engine) == {"pg"}
