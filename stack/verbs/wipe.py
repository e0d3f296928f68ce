"""The only code that deletes files: data/pg, data/convex, data/embedded and the volumes of this checkout alone."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from stack.engines.base import Engine, need
from stack.ground import disk, regular
from stack.ground.disk import TIGHT, mount_points
from stack.ground.errors import Refused, StackError
from stack.ground.talk import confirm, say
from stack.ground.trash import ASIDE, KEPT, unfinished
from stack.ground.volume import Place, Volume
from stack.verbs import exchange, halves
from stack.verbs.dump_all import dump
from stack.verbs.loss import LEAVES, Loss
from stack.verbs.names import names_of

PATIENCE = 60.0
"""Seconds in which the background has made a copy; else it is stuck, and is not waited for."""


def ask_and_wipe(
    engine: Engine,
    service: str = "",
    *,
    yes: bool,
    dry_run: bool = False,
    prepare: Callable[[int], object] = int,
    again: bool = False,
) -> None:
    """Show what would be lost, ask, stop the stack and delete it; `service` is pg, convex, or both when empty.

    `prepare`, which gets the bytes that are freed, is what has to succeed before anything is touched. What a reset
    keeps for the next one goes with the database, unless it is to be made `again`.
    Raises Refused, with nothing touched, when the user says no, cannot be asked, or a path is not safe.
    """
    lost = losses(engine, service)
    for loss in lost:
        say(str(loss))
    if not dry_run:
        tidy(engine)
    goes = not (dry_run or again or service == "convex")
    if dry_run or not lost:
        if goes:
            give_up_kept(engine)
        say("Nothing was deleted." if lost else "There is no data to delete.")
        return
    confirm("Stop the stack and delete this for ever?", yes=yes, first=_dump(engine, lost))
    prepare(sum(loss.size or 0 for loss in lost))
    engine.stop()
    if goes:
        give_up_kept(engine)
    data = engine.root / "data"
    soon = again and disk.free(data) > TIGHT and any(data.glob(f"{KEPT}-*-next"))
    wipe(engine, {loss.leaf: loss.path for loss in lost}, soon=soon)
    say("Deleted.")


def _dump(engine: Engine, lost: list[Loss]) -> tuple[str, Callable[[], object]] | None:
    """Return what brings it back, in words and as what does it; None where no database is lost."""
    leaves = {loss.leaf for loss in lost}
    if not leaves - {"convex"}:
        return None
    both = "convex" in leaves
    return f"dump {'both' if both else 'the database'} first", lambda: dump(engine, "", everything=both)


def losses(engine: Engine, service: str = "") -> list[Loss]:
    """Return what a wipe would delete. Raises Refused when a path is not safe to delete."""
    data = need(engine.data, engine)
    stores = data.stores()
    refuse_volumes(engine, service)
    if service and service not in stores:
        raise Refused(f"--service {service!r} keeps no data here. Choose one of: {', '.join(stores)}.")
    database = engine.convex.database() if engine.convex else ""
    if service and database:
        raise Refused(
            f"Convex keeps its tables in the database {database}, and its files in data/convex: neither is of use"
            " without the other, so nothing was deleted.",
            cure="Type `invoke reset-data` for both.",
        )
    chosen = {name: path for name, path in stores.items() if service in ("", name)}
    for name, path in chosen.items():
        if isinstance(path, Path):
            check(engine.root, name, path)
        refuse_if_held(engine, path)
        data.check_deletable(path)
    there = {name: path for name, path in chosen.items() if data.there(path)}
    kept, told_with = tuple(halves.all_of(engine.root)), "pg" if "pg" in there else "convex"
    return [
        Loss(name, path, size(engine, path), _snapshots(engine, path), kept if name == told_with else (), database)
        for name, path in there.items()
    ]


def _snapshots(engine: Engine, path: Place) -> tuple[str, ...]:
    file = names_of(engine.root / "data" / path.name)
    try:
        return tuple(regular.text(file.parent, file.name).splitlines())
    except OSError:
        return ()


def check(root: Path, name: str, path: Path) -> None:
    """Raise Refused unless `path`, where a service keeps its state, is data/`name` with no detour on the way."""
    if path != root / "data" / name or name not in LEAVES:
        raise Refused(
            f"The data of {name} is in {path}, which is not a data directory of this checkout, so nothing was deleted."
            " Look at it, and delete it by hand."
        )
    points = mount_points()
    for step in (path.parent, path):
        # A bind mount of the same file system has the device of its parent, so `ismount` does not see it.
        if step.is_symlink() or os.path.ismount(step) or step.resolve() in points:
            kind = "a symbolic link" if step.is_symlink() else "a mount point"
            raise Refused(
                f"{step} is {kind}, so what would be deleted lies outside this checkout. Nothing was deleted. Empty"
                " the place that it leads to by hand, or remove it."
            )
    if path.exists() and not path.is_dir():
        raise Refused(f"{path} is not a directory. Nothing was deleted. Look at it, and remove it by hand.")
    inside = [point for point in points if path.resolve() in point.parents]
    if inside:
        raise Refused(f"{inside[0]} is a mount point. Nothing was deleted. Unmount it first.")


def refuse_volumes(engine: Engine, service: str = "") -> None:
    """Raise Refused when what would be deleted is not in a directory."""
    kept = need(engine.data, engine).volumes()
    chosen = [words for name, words in kept.items() if service in ("", name)]
    if chosen:
        others = " or ".join(f"`invoke reset-data --service {name}`" for name in need(engine.data, engine).stores())
        raise Refused(
            f"{' and '.join(chosen)}, which is not one of this checkout's own, so it is not deleted from here. Nothing"
            " was touched.",
            cure=(f"Type {others} to delete the other data alone. " if others else "")
            + "To begin with an empty volume and keep this one, give it another name in the layer, then `invoke up`.",
        )


def refuse_if_held(engine: Engine, path: Place) -> None:
    """Raise Refused when something that `down` does not stop uses a directory or a volume."""
    for holder in need(engine.data, engine).holders(path):
        raise Refused(
            f"{path} is in use by {holder.who}, which is not part of this stack. Nothing was deleted. Stop it with"
            f" `{holder.stop}`, then type the command again."
        )


def wipe(engine: Engine, stores: Mapping[str, Place], *, soon: bool = False) -> None:
    """Delete the directories and volumes, by leaf, of a stack that is down.

    Each directory is renamed aside first, which is atomic and allowed to the owner of `data/` whoever owns the files:
    an interruption leaves the old directory or none. A volume is deleted by its server, whoever waits for that. What
    lies aside is to be deleted `soon`: by the background, which the caller begins, or by whoever sweeps next.
    Raises Refused, with nothing touched, when one is in use.
    """
    for leaf, path in stores.items():
        if isinstance(path, Path):
            check(engine.root, leaf, path)
        refuse_if_held(engine, path)
    paths = [path for path in stores.values() if isinstance(path, Path)]
    paths += halves.all_of(engine.root) if "pg" in stores else []
    if {"pg", "convex"} & stores.keys():
        exchange.forget(engine.root)
    mine = [path.with_name(f"{ASIDE}{path.name}-{os.getpid()}") for path in paths]
    for path, aside in zip(paths, mine, strict=True):
        try:
            path.rename(aside)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StackError(f"{path} cannot be moved aside: {error.strerror}. It was not deleted.") from None
        with suppress(OSError):  # what it repeats has gone
            names_of(path).unlink()
    for volume in (place for place in stores.values() if isinstance(place, Volume)):
        need(engine.data, engine).delete(volume)
        with suppress(OSError):
            names_of(engine.root / "data" / volume.name).unlink()
    if soon:
        return
    stays = _sweep(engine)
    if any(aside.exists() for aside in mine):
        raise StackError("\n".join(stays))
    for why in stays:  # of another time
        say(why)


def give_up_kept(engine: Engine) -> None:
    """Delete what a reset has kept for the next one, or what is left of it."""
    data = engine.root / "data"
    with suppress(OSError), (data / KEPT).open() as marker:
        deadline = time.monotonic() + PATIENCE
        while not _locked(marker) and time.monotonic() < deadline:
            time.sleep(0.05)
        (data / KEPT).unlink()  # first: without it the rest is nothing
    if there := list(data.glob(f"{KEPT}-*")):
        for path in there:
            halves.give_up(path)
        tidy(engine)


def _locked(marker: IO[str]) -> bool:
    """Lock it, unless a process in the background has, which copies what is kept."""
    try:
        fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sweep(engine: Engine) -> None:
    """Delete what a wipe has moved aside, and what runs that died have left unfinished.

    Raises StackError with what stays, and why, once all else is deleted.
    """
    if stays := _sweep(engine):
        raise StackError("\n".join(stays))


def size(engine: Engine, path: Place) -> int | None:
    """Return the bytes in a directory or a volume, asking the engine where the user may not look."""
    if isinstance(path, Volume):
        return need(engine.data, engine).size(path)
    try:
        return disk.used(path)
    except PermissionError:
        return need(engine.data, engine).size(path)


def tidy(engine: Engine) -> None:
    """Do the same beside something else, which succeeds though something stays: that is only said."""
    for why in _sweep(engine):
        say(why)


def _sweep(engine: Engine) -> list[str]:
    stays = []
    for aside in unfinished(engine.root):
        try:
            if aside.is_symlink():
                aside.unlink()
                continue
            shutil.rmtree(aside, ignore_errors=True)
            if aside.exists():
                need(engine.data, engine).delete(aside)
                aside.rmdir()
        except StackError as error:
            stays.append(str(error))
        except FileNotFoundError:  # the background was at it too
            continue
        except OSError as error:
            stays.append(f"{aside}, which a command that died has left, cannot be deleted: {error.strerror}.")
    return stays
