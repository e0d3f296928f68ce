"""TCP ports: who listens, and where the name localhost leads."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
from collections import Counter
from contextlib import suppress

from stack.ground.errors import StackError
from stack.ground.run import look

EVERYWHERE = ("", "0.0.0.0", "::", "[::]")  # noqa: S104 - compared, not bound
"""How an address that means all of them is written: in a Compose file, and by `docker ps`."""
ANOTHER = "another program on this machine"
"""Who listens when nobody can tell."""
LOCALHOST_TOO = "::1"
"""What the name localhost may mean beside 127.0.0.1; browsers and Node think so whatever the hosts file says."""


def reached_at(address: str) -> str:
    """Return where a program on this machine reaches a server that listens on an address.

    Never `localhost`: where that is ::1 as well, another server may answer there.
    """
    if address in ("::", "[::]"):
        return "::1"
    return "127.0.0.1" if address in EVERYWHERE else address


def open_to_others(address: str) -> bool:
    """Return whether other machines may reach a server that listens on an address."""
    return address in EVERYWHERE or not ipaddress.ip_address(address.strip("[]")).is_loopback


def is_free(address: str, port: int) -> bool:
    """Return whether a server could listen on a TCP port right now, and have the name localhost lead to it alone."""
    return _error(address, port) == 0 and not also_at_localhost(address, port)


def why_not_free(address: str, port: int) -> str:
    """Return why a server could not listen on a TCP port, naming who does; empty when it could.

    A port below 1024 counts as free: Docker may open it though this user may not.
    """
    error = _error(address, port)
    if error in (0, errno.EACCES):
        return ""
    if error == errno.EADDRNOTAVAIL:
        return f"{address} is not an address of this machine, so nothing can listen on port {port} there."
    return f"Port {port} is taken by {holder(port, address)}."


def also_at_localhost(address: str, port: int) -> str:
    """Return who listens on [::1]:PORT, where `localhost` leads too, beside what listens on `address`.

    Empty when nobody does, when it is the very server that answers on 127.0.0.1, or when localhost does not lead to
    `address` at all. A machine without ::1 has nothing there.
    """
    if reached_at(address) != "127.0.0.1" or not _answers(LOCALHOST_TOO, port) or is_one_server(port):
        return ""
    return taken_beside(port, holder(port, LOCALHOST_TOO))


def taken_beside(port: int, who: str) -> str:
    """Return what to say of somebody who listens on ::1 alone."""
    return f"Port {port} is taken on ::1, to which the name localhost leads as well as to 127.0.0.1, by {who}."


def taken(why: str, *, runs: bool = False) -> StackError:
    """Return what to say of a port that somebody else has, before a start or while the stack runs."""
    if runs:
        return StackError(
            why,
            cure="Stop that; until then write 127.0.0.1, not localhost, to reach this stack. For other ports type"
            " `invoke down`, `invoke init --isolated`, `invoke up`.",
        )
    cure = "Stop that, or type `invoke init --isolated` to give this checkout free ports, then `invoke up`."
    return StackError(why, cure=cure)


def _error(address: str, port: int) -> int:
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections that linger do not count
            probe.bind((address, port))
    except OSError as error:
        return error.errno or errno.EADDRINUSE
    return 0


def _answers(address: str, port: int) -> bool:
    """Return whether somebody listens; who is full and does not take our call does too."""
    if _error(address, port) not in (errno.EADDRINUSE, errno.EACCES):
        return False
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as caller:
        caller.settimeout(1)
        return caller.connect_ex((address, port)) != errno.ECONNREFUSED


def is_one_server(port: int, *, unseen: bool = False) -> bool:
    """Return whether the same program answers on ::1 and on 127.0.0.1; `unseen` when this user may not see who does."""
    import psutil

    try:
        four, six = (_listeners(port, address) for address in ("127.0.0.1", LOCALHOST_TOO))
    except psutil.Error:  # on macOS only root may ask
        return unseen
    return bool(six) and None not in six and six <= four


def _listeners(port: int, address: str) -> set[int | None]:
    """Return the processes that listen on a port of an address, or of all; None stands for one that is not to be seen.

    Raises psutil.Error where only root may ask.
    """
    import psutil

    # A socket for all of IPv6 takes IPv4 too, unless there is one for that.
    heard = [
        (each.laddr.ip.removeprefix("::ffff:"), each.pid)
        for each in psutil.net_connections("tcp")
        if each.laddr and each.laddr.port == port and each.status == psutil.CONN_LISTEN
    ]
    exact = {pid for ip, pid in heard if ip in {address, "::" if ":" in address else "0.0.0.0"}}  # noqa: S104
    return exact or {pid for ip, pid in heard if ip == "::"}


def holder(port: int, address: str = "") -> str:
    """Return the program that listens on a port, of an address if there is one, as far as this user may see it."""
    import psutil

    asked = ["127.0.0.1", LOCALHOST_TOO] if address in EVERYWHERE else [address]
    try:
        pids = sorted(pid for each in asked for pid in _listeners(port, each) if pid)
    except psutil.Error:  # macOS shows them to root alone
        pids = _by_lsof(port, asked)
    for pid in pids:
        with suppress(psutil.Error):
            return f"{psutil.Process(pid).name()} (process {pid})"
    return ANOTHER


def _by_lsof(port: int, addresses: list[str]) -> list[int]:
    """Return the processes of this user's that listen there, as lsof tells them, which macOS has; else none."""
    heard: list[tuple[str, int]] = []
    with suppress(StackError):
        told = look(["lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpn"]).stdout
        # A process is a line `p123`, after which its sockets stand: `n127.0.0.1:5433`, `n[::1]:5433`, `n*:5433`.
        for pid, sockets in re.findall(r"^p(\d+)\n((?:(?!p).*\n?)*)", told, re.MULTILINE):
            names = re.findall(r"^n(.*):\d+$", sockets, re.MULTILINE)
            heard += [(name.strip("[]"), int(pid)) for name in names]
    exact = [pid for name, pid in heard if name in addresses]
    return exact or [pid for name, pid in heard if name == "*"]


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
