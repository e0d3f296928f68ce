"""TCP ports of this machine: which are free, and who holds the others."""

from __future__ import annotations

import errno
import os
import socket
from collections import Counter


def is_free(address: str, port: int) -> bool:
    """Return whether a server could listen on a TCP port right now."""
    return _error(address, port) == 0


def why_not_free(address: str, port: int) -> str:
    """Return why a server could not listen on a TCP port, naming who does; empty when it could.

    A port below 1024 counts as free: Docker may open it though this user may not.
    """
    error = _error(address, port)
    if error in (0, errno.EACCES):
        return ""
    if error == errno.EADDRNOTAVAIL:
        return f"{address} is not an address of this machine, so nothing can listen on port {port} there."
    return f"Port {port} is taken by {holder(port)}."


def _error(address: str, port: int) -> int:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections that linger do not count
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno or errno.EADDRINUSE
    return 0


def holder(port: int) -> str:
    """Return the program that listens on a port, as far as this user may see it."""
    import psutil

    try:
        pids = {
            each.pid
            for each in psutil.net_connections("tcp")
            if each.laddr and each.laddr.port == port and each.pid and each.status == psutil.CONN_LISTEN
        }
        return next(f"{psutil.Process(pid).name()} (process {pid})" for pid in pids)
    except (psutil.Error, StopIteration):
        return "another program on this machine"


def clients(port: int) -> Counter[str]:
    """Return the programs that are connected to a TCP port of this machine, as far as this user may see them."""
    import psutil

    found: Counter[str] = Counter()
    try:
        connections = psutil.net_connections("tcp")
    except psutil.Error:  # macOS shows them to root alone
        return found
    for each in connections:
        if each.raddr and each.raddr.port == port and each.pid and each.pid != os.getpid():
            try:
                found[f"{psutil.Process(each.pid).name()} (process {each.pid})"] += 1
            except psutil.Error:
                continue
    return found
