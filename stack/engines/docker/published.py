"""The ports of containers, as `docker ps` writes them."""

from __future__ import annotations

import re

from stack.ground import ports as tcp


def publishes(ports: str, address: str, number: int) -> bool:
    """Return whether a container with these ports, as `docker ps` writes them, holds a port on an address.

    IPv6 is written `:::5433` and `::1:5433` by older clients, `[::]:5433` and `[::1]:5433` by newer ones; podman leaves
    the address out where it is all of them.
    """
    return any(
        int(first) <= number <= int(last or first) and _overlap(host.strip("[]"), address)
        for host, first, last in re.findall(r"(?:^|, )([^, ]*?):(\d+)(?:-(\d+))?->[^,]*/tcp", ports)
    )


def _overlap(one: str, other: str) -> bool:
    """Return whether two addresses have one in common, on which no two servers can listen."""
    if (":" in one) != (":" in other) and one and other:
        return False
    return one == other or not {one, other}.isdisjoint(tcp.EVERYWHERE)
