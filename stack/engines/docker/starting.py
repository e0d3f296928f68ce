"""`docker compose up` at work in the background, so that health can be watched meanwhile."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from typing import IO

from stack.engines.docker.containers import REMOVAL
from stack.ground.errors import StackError
from stack.ground.run import start

# What Docker says of a container that somebody else is removing at this moment.
_VANISHING = re.compile(r"No such container|marked for removal|removal of container .* is already in progress|is dead")


class Starting:
    """One such start; `otherwise` may know another command line, and what it reads, for what was refused."""

    def __init__(
        self,
        argv: list[str],
        explain: Callable[[str], StackError],
        otherwise: Callable[[str], tuple[list[str], str] | None],
    ) -> None:
        self._argv, self._input = argv, ""
        self._explain, self._otherwise = explain, otherwise
        self._deadline = time.monotonic() + REMOVAL
        self._begin()

    def _begin(self) -> None:
        self._said: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the child
        with tempfile.TemporaryFile("w+") as given:
            given.write(self._input)
            given.seek(0)
            self._child = start(self._argv, stdin=given.fileno(), stdout=self._said, stderr=self._said)

    def go_on(self) -> bool:
        """Return whether everything was started; try again what met a container on its way out. Raises StackError."""
        code = self._child.poll()
        if code:
            self._said.seek(0)
            said = self._said.read()
            if _VANISHING.search(said) and time.monotonic() < self._deadline:
                time.sleep(0.3)  # a former container is just being removed by somebody else
                self._said.close()
                self._begin()
                return False
            self._said.close()
            if not self._input and (other := self._otherwise(said)):
                self._argv, self._input = other
                self._begin()
                return False
            raise self._explain(said)
        return code == 0

    def finish(self) -> None:
        """Wait for Compose to end."""
        while not self.go_on():
            self._child.wait()
        self._said.close()

    def leave(self) -> None:
        """End Compose itself; what it has started keeps running."""
        if self._child.poll() is None:
            self._child.terminate()
            self._child.wait()
        self._said.close()
