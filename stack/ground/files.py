"""Files that appear when they are whole and on the disk."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from stack.ground.talk import say

Fill = Callable[[IO[bytes]], object]
"""What writes all of a file's content; whatever it raises leaves everything as it was."""
OWN = 0o600
"""The mode of a new file: it may hold rows, or passwords."""
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EROFS, errno.EACCES, errno.EPERM}
"""What says that such a thing cannot be synced: a pipe, or a directory on some network file systems."""
_NOT_BESIDE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY}
"""What says that a file cannot be replaced: its directory's mode or sticky bit, or that it is a mount point."""
_OPEN = re.compile(r"/dev/(?:std(in|out|err)|fd/(\d+))|/proc/self/fd/(\d+)")


def write(file: str | Path, fill: Fill, mode: int = OWN) -> bool:
    """Write a file; when this returns, the content is on the disk under that name. False when it is no regular file.

    Until then, and when anything fails, the former file stays. A link is followed; what is no regular file is written
    through. `mode` is that of a new file: a former one keeps its own, and its owner where possible. Raises OSError.
    """
    name = os.fspath(file)
    if found := _OPEN.fullmatch(name):
        _pour(os.dup(_number(found)), fill)
        return False
    there, target = _look(name)
    if there and not (stat.S_ISREG(there.st_mode) and target.exists() and target.samefile(name)):
        descriptor = _open(name, there)
        _pour(descriptor, _spooled(fill) if stat.S_ISBLK(there.st_mode) else fill)
        return False
    _replace(target, there, fill, mode)
    return True


def add(folder: Path, names: Iterable[str], fill: Fill) -> Path:
    """As `write`, under the first of some names that nobody has by the time it is whole; return the path.

    A folder that is not there is made, for its owner alone.
    """
    with suppress(FileExistsError):
        folder.mkdir(0o700)
        sync_directory(folder.parent)
    with _beside(folder) as (stream, named):
        fill(stream)
        _set_mode(stream.fileno(), OWN)
        whole = _finish(stream, named)
        path = next(path for name in names if _take(whole, path := folder / name))
        sync_directory(folder)
        return path


def write_text(file: Path, text: str, mode: int = OWN) -> None:
    """Write a small file; see `write`."""
    write(file, lambda stream: stream.write(text.encode()), mode)


def sync_directory(folder: Path) -> None:
    """Put the names in a directory on the disk, where there is such a thing."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one may write in it, and not list it
        return
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def typed(path: str | Path) -> str:
    """Return a path as it is typed after a command, whatever is in it."""
    name = os.fspath(path)
    name = f"./{name}" if name.startswith("-") else name
    if name.isprintable():
        return shlex.quote(name)
    plain = {byte for byte in range(32, 127) if chr(byte) not in "'\\"}
    return f"$'{''.join(chr(byte) if byte in plain else f'{chr(92)}x{byte:02x}' for byte in os.fsencode(name))}'"


def _look(name: str) -> tuple[os.stat_result | None, Path]:
    """Return what has a name, if anything, and where its links lead. Raises IsADirectoryError."""
    try:
        there = Path(name).stat()
    except FileNotFoundError:
        there = None
    if (there and stat.S_ISDIR(there.st_mode)) or name.rpartition("/")[2] in ("", ".", ".."):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    return there, Path(os.path.realpath(name))


def _replace(target: Path, there: os.stat_result | None, fill: Fill, mode: int) -> None:
    if there and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "it is write-protected", target)
    with ExitStack() as stack:
        try:
            stream, named = stack.enter_context(_beside(target.parent))
        except OSError as error:
            if not there or error.errno not in _NOT_BESIDE:
                raise
            stream = stack.enter_context(tempfile.TemporaryFile())
            fill(stream)
            _overwrite(target, stream)
            return
        fill(stream)
        if there:
            _become(stream.fileno(), there, target)
        else:
            _set_mode(stream.fileno(), mode)
        whole = _finish(stream, named)
        try:
            whole.replace(target)
        except OSError as error:
            if not there or error.errno not in _NOT_BESIDE:
                raise
            _overwrite(target, stream)
        sync_directory(target.parent)


@contextmanager
def _beside(folder: Path) -> Iterator[tuple[IO[bytes], Callable[[], Path]]]:
    """Make a new file in a folder, and give with it what gives it a name there, which does not last.

    Where the system has files without a name, a process that is killed leaves nothing behind.
    """
    with ExitStack() as stack:

        def name() -> Path:
            prefix = f".new-file-{os.getpid()}-"  # `wipe` spares it so
            made = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix=prefix)))
            made.chmod(0o700)  # a umask may have kept its owner out
            return made / "file"

        def link() -> Path:
            path = name()
            # Any directory's descriptor makes Python follow the link, as this needs; the paths are absolute.
            os.link(f"/proc/self/fd/{stream.fileno()}", path.absolute(), src_dir_fd=stream.fileno())
            return path

        try:
            Path("/proc/self/fd").stat()
            descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, OWN)
        except (AttributeError, OSError):
            path = name()
            stream = stack.enter_context(os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, OWN), "w+b"))
            yield stream, lambda: path
        else:
            stream = stack.enter_context(os.fdopen(descriptor, "w+b"))
            yield stream, link


def _finish(stream: IO[bytes], named: Callable[[], Path]) -> Path:
    """Put a new file on the disk, and give it a name."""
    stream.flush()
    os.fsync(stream.fileno())
    return named()


def _become(descriptor: int, there: os.stat_result, former: Path) -> None:
    """Take the owner, mode and access list of a former file."""
    mode = there.st_mode & 0o777
    try:
        os.fchown(descriptor, there.st_uid, there.st_gid)
    except PermissionError:
        try:
            os.fchown(descriptor, -1, there.st_gid)
        except PermissionError:
            mode &= ~0o070  # they were another group's
    _set_mode(descriptor, mode)
    with suppress(AttributeError, OSError):  # macOS has none
        for name in os.listxattr(former):
            os.setxattr(descriptor, name, os.getxattr(former, name))


def _set_mode(descriptor: int, mode: int) -> None:
    """Give a file its mode, whatever the umask has taken from it."""
    with suppress(PermissionError):  # a file system without modes, as that of a memory stick
        os.fchmod(descriptor, mode)


def _take(whole: Path, path: Path) -> bool:
    """Give a file a name that nobody has, and return whether it was free."""
    try:
        os.link(whole, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        if path.exists():
            return False
        whole.rename(path)
    return True


def _overwrite(target: Path, source: IO[bytes]) -> None:
    """Copy a file that is whole over one that cannot be replaced, once it is certain that there is the room."""
    source.flush()
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    with target.open("r+b") as stream:
        former = os.fstat(stream.fileno()).st_size
        if size > former and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(stream.fileno(), former, size - former)
            except OSError:
                stream.truncate(former)
                raise
        shutil.copyfileobj(source, stream)
        stream.truncate(size)
        stream.flush()
        os.fsync(stream.fileno())


def _number(found: re.Match[str]) -> int:
    return {"in": 0, "out": 1, "err": 2}[found[1]] if found[1] else int(found[2] or found[3])


def _open(name: str, there: os.stat_result) -> int:
    """Open a device or a pipe, waiting for whoever is to read it."""
    if stat.S_ISSOCK(there.st_mode):
        raise OSError(errno.ENXIO, "it is a socket", name)
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        os.set_blocking(descriptor, True)
    except OSError as error:
        if error.errno != errno.ENXIO or not stat.S_ISFIFO(there.st_mode):
            raise
        say(f"Waiting for somebody to read {name}.")
        descriptor = os.open(name, os.O_WRONLY)
    return descriptor


def _spooled(fill: Fill) -> Fill:
    """Fill a file first: pg_dump takes what can be sought in for a file, and begins at its end."""

    def copy(stream: IO[bytes]) -> None:
        with tempfile.TemporaryFile() as spool:
            fill(spool)
            spool.seek(0)
            shutil.copyfileobj(spool, stream)

    return copy


def _pour(descriptor: int, fill: Fill) -> None:
    with os.fdopen(descriptor, "wb") as stream:
        fill(stream)
        stream.flush()
        _sync(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
