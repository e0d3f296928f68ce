"""Ports for servers of tests, which may run in several processes at once."""

from __future__ import annotations

import atexit
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle

from stack.ground.ports import is_free

_NUMBERS = cycle(range(20_000, 32_000))
_KEPT = ExitStack()
atexit.register(_KEPT.close)


@contextmanager
def own_ports(count: int) -> Iterator[list[int]]:
    """Yield TCP ports on loopback that are free, and that nobody else gets here meanwhile, in whichever process.

    Who holds the UDP port of the same number has it: that is in no server's way, and ends with its process. All lie
    below those that the kernel gives to clients.
    """
    with ExitStack() as held:
        numbers: list[int] = []
        for number in _NUMBERS:
            try:
                udp = held.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                udp.bind(("127.0.0.1", number))
            except OSError:
                continue
            numbers += [number] * is_free("127.0.0.1", number)
            if len(numbers) == count:
                break
        yield numbers


def own_port() -> int:
    """Return such a port that is this process's until it ends."""
    return _KEPT.enter_context(own_ports(1))[0]
