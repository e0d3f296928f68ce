"""TCP ports of this machine: which are free, and who holds the others."""

from __future__ import annotations

import socket


def is_free(address: str, port: int) -> bool:
    """Return whether a server could listen on a TCP port right now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections that linger do not count
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def holder(port: int) -> str:
    """Return the program that listens on a port, as far as this user may see it."""
    import psutil

    try:
        pids = {
            each.pid for each in psutil.net_connections("tcp") if each.laddr and each.laddr.port == port and each.pid
        }
        return next(f"{psutil.Process(pid).name()} (process {pid})" for pid in pids)
    except (psutil.Error, StopIteration):
        return "another program on this machine"
