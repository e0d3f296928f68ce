"""One engine without a server, for what is above engines: its services go through given states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import IO

from stack.engines.backend import Copying, Still
from stack.engines.base import NO_OTHER, Engine, Service, Start
from stack.ground import settings
from stack.ground.run import Command
from stack.ground.volume import Place
from stack.server.address import Endpoint, Running
from stack.server.identity import Identity
from stack.server.pgdata import Contents
from stack.server.processes import Holder

NO_CHECKOUT = Path("/no/checkout")
"""What the user's own checkout has in `data/` and `.env` is not to make a difference."""


class FakeBackend:
    """A Convex backend that is not to be asked or told anything."""

    def key(self) -> str:
        raise AssertionError("no key is to be made")

    def accepts(self, key: str) -> bool:
        raise AssertionError("no key is to be tried")

    def check_dashboard(self) -> None: ...

    def directory(self) -> Path | None:
        return None

    def elsewhere(self) -> Place | None:
        return None

    def database(self) -> str:
        return ""

    def image(self) -> tuple[str, str]:
        return "", ""

    def copying(
        self, source: Path, target: Path, image: str, *, still: bool = False
    ) -> AbstractContextManager[Copying]:
        raise AssertionError("nothing is to be copied")

    def packed(self, directory: Path) -> AbstractContextManager[IO[bytes]]:
        raise AssertionError("nothing is to be packed")

    def unpacking(self, directory: Path) -> AbstractContextManager[IO[bytes]]:
        raise AssertionError("nothing is to be unpacked")

    def instance(self) -> str:
        return ""

    def still(self) -> AbstractContextManager[Still]:
        raise AssertionError("nothing is to stand still")

    def stop(self) -> bool:
        raise AssertionError("nothing is to be stopped")

    def start(self) -> None:
        raise AssertionError("nothing is to be started")


class FakeData:
    """The directories of a checkout, which nobody runs on."""

    texts: Mapping[str, str] = MappingProxyType({})

    def __init__(self, root: Path, holders: Sequence[Holder] = ()) -> None:
        self.root, self.held_by = root, list(holders)
        self.held = Contents(39_000_000)

    def directories(self) -> dict[str, Path]:
        return {"pg": self.root / "data" / "pg", "convex": self.root / "data" / "convex"}

    def stores(self) -> dict[str, Place]:
        return {**self.directories()}

    def there(self, place: Place) -> bool:
        return isinstance(place, Path) and place.exists()

    def room(self, place: Place) -> int | None:
        return None

    def volumes(self) -> dict[str, str]:
        return {}

    def place(self) -> Path:
        return self.root / "data" / "pg"

    def holders(self, path: Place) -> list[Holder]:
        return self.held_by

    def size(self, path: Place) -> int | None:
        return None

    def read(self, *names: str) -> dict[str, str]:
        return {}

    def contents(self) -> Contents | None:
        return self.held

    def append(self, name: str, text: str, *, instead: bool = False) -> None:
        raise AssertionError("nothing is to be written")

    def admits(self, rule: Sequence[str]) -> bool:
        return True

    def closed(self, path: Path) -> tuple[str, str] | None:
        return None

    def unusable(self) -> tuple[str, str] | None:
        return None

    def check_deletable(self, path: Place) -> None: ...

    def delete(self, path: Place) -> None: ...


class FakeInside:
    """A server of which only its processes' titles are known."""

    def running(self) -> Running:
        raise AssertionError("nobody runs")

    def identifier(self, server: str = "", *, surely: bool = False) -> Identity:
        return Identity(1)

    def peer(self, user: str, database: str) -> Command:
        return Command(["false"], {})

    def titles(self) -> list[str]:
        return ["postgres: u d 127.0.0.1(5) idle", "postgres: shop: u d 127.0.0.1(6) idle", "postgres: walwriter"]


class FakeStart:
    """A start that is over, or fails with words."""

    def __init__(self, answer: Callable[[], bool] = lambda: True) -> None:
        self.answer, self.left = answer, False

    def go_on(self) -> bool:
        return self.answer()

    def finish(self) -> None: ...

    def leave(self) -> None:
        self.left = True


class FakeEngine(Engine):
    """An engine whose services go through given states, one a look; the last one stays."""

    name = "fake"
    data: FakeData

    def __init__(self, *states: Service, root: Path = NO_CHECKOUT, holders: Sequence[Holder] = ()) -> None:
        super().__init__(settings.load(root, {}), root)
        self.states, self.log = list(states), ""
        self.data, self.inside = FakeData(root, holders), FakeInside()

    @property
    def lacks(self) -> str:
        return "It is not a real one."

    def services(self) -> list[Service]:
        return [self.states.pop(0) if len(self.states) > 1 else self.states[0]]

    def endpoint(self) -> Endpoint | None:
        return Endpoint("localhost", 1, "u", "hunter2", "d")

    def client(
        self,
        *argv: str,
        stdin: bool = False,
        terminal: bool = False,
        name: str = "",
        into: Mapping[str, str] = NO_OTHER,
    ) -> Command:
        return Command(["false"], {})

    def start(self) -> Start:
        return FakeStart()

    def stop(self) -> None: ...

    def last_words(self, service: str, lines: int = 15) -> str:
        return self.log or f"the log of {service}"
