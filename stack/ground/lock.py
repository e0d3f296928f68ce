"""One command at a time changes a checkout's stack."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote

from stack.ground import settings
from stack.ground.errors import StackError
from stack.ground.talk import say


@contextmanager
def exclusive(root: Path = settings.ROOT, timeout: float = 60) -> Iterator[None]:
    """Hold this checkout's lock: what changes the stack runs one at a time.

    Waits `timeout` seconds for another command to end, then raises StackError. Who holds it already goes on. The
    kernel frees the lock of a process that dies.
    """
    from filelock import FileLock, Timeout

    try:
        (root / "data").mkdir(exist_ok=True)
    except OSError as error:
        raise StackError(
            f"The directory {root / 'data'} cannot be made: {error.strerror}. Nothing was done. Look at what is there."
        ) from None
    _own_lock(root / "data" / ".lock")
    lock = FileLock(root / "data" / ".lock", mode=0o600, is_singleton=True)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say("Another command is at work on this stack; waiting for it to end.")
            lock.acquire(timeout=timeout)
    except Timeout:
        raise StackError(
            f"Another command has been at work on this stack for {timeout:g} s, so nothing was done. Wait until it"
            " ends, or end it; then type the command again."
        ) from None
    except PermissionError:
        raise StackError(_not_ours(Path(lock.lock_file))) from None
    except OSError as error:
        raise StackError(
            f"{lock.lock_file}, by which one command at a time changes this stack, cannot be locked: {error.strerror}."
            " Nothing was done. Look at what is there."
        ) from None
    _own_lock(Path(lock.lock_file))
    try:
        yield
    finally:
        lock.release()


def _own_lock(file: Path) -> None:
    """See to it that nobody but the owner of `data/` can hold the lock; root, who may have made it, always can."""
    me = os.geteuid()
    with suppress(OSError):
        there = file.lstat()
        if stat.S_ISREG(there.st_mode) and me in (0, there.st_uid):
            if me == there.st_uid == 0:
                owner = file.parent.stat()
                os.chown(file, owner.st_uid, owner.st_gid)
            if there.st_mode & 0o777 != 0o600:
                file.chmod(0o600)


def _not_ours(file: Path) -> str:
    """Return what to say and type when the lock may not be opened, or its folder not be written."""
    place = file if os.path.lexists(file) else file.parent
    me, owner = _name(os.geteuid()), _name(place.stat().st_uid)
    if me == owner:
        return f"{place} is yours, and may not be written. Nothing was done. Type `chmod u+rwX {quote(str(place))}`."
    return (
        f"{place} belongs to {owner}, and you are {me}, so nothing was done. If this checkout is yours, type"
        f" `sudo chown {me} {quote(str(place))}`, then the command again; else use a checkout of your own."
    )


def _name(user: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:  # one without a name
        return str(user)
