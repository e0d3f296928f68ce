"""A pseudo-terminal with a command on it, for what is only done for a person."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import time
from pathlib import Path

from tests.integration.checkout import INVOKE, environment

CTRL_C = "\x03"


class Terminal:
    """`invoke ARGS` in a copy, with a terminal as its stdin, stdout and stderr."""

    def __init__(self, copy: Path, *args: str) -> None:
        self._unread = self.said = ""
        self._code: int | None = None
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.chdir(copy)
            os.execvpe(INVOKE[0], [*INVOKE, *args], environment(TERM="xterm"))

    def close(self) -> None:
        """End the program if it has not ended."""
        if self._code is None:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._terminal)

    def type(self, text: str) -> None:
        """Type something; a line ends with \\n."""
        os.write(self._terminal, text.encode())

    def expect(self, words: str, timeout: float = 20) -> str:
        """Return what was said up to `words`, and since the last call; fails after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while words not in self._unread:
            assert self._read(deadline), f"{words!r} did not come. All that was said:\n{self.said}"
        before, _, self._unread = self._unread.partition(words)
        return before

    def wait(self, timeout: float = 20) -> int:
        """Return the exit code of the program, which must end within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self._read(deadline):
            pass
        while self._code is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            assert pid or time.monotonic() < deadline, f"It does not end. All that was said:\n{self.said}"
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        return self._code

    def _read(self, deadline: float) -> bool:
        """Take what was said; False when there will be nothing more, or not before the deadline."""
        ready, _, _ = select.select([self._terminal], [], [], max(0, deadline - time.monotonic()))
        try:
            new = os.read(self._terminal, 65536).decode(errors="replace") if ready else ""
        except OSError:  # Linux's way to say that the other end is closed
            new = ""
        plain = re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|[=>])|\r", "", new)
        self.said += plain
        self._unread += plain
        return bool(new)
