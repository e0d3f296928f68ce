"""A checkout that is born full: its data is copied from another one's, while that runs and notices nothing."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stack.engines import choose
from stack.engines.backend import Copying
from stack.engines.base import Engine, need
from stack.ground import catalog, disk, files, trash
from stack.ground.errors import Refused, StackError
from stack.ground.talk import human
from stack.ground.threads import meanwhile
from stack.server import pgdata
from stack.server.admin import Cluster
from stack.verbs import exchange, halves, init, sibling, wipe
from stack.verbs.drop import leaving_out
from stack.verbs.facts import COMMENT, MARK
from stack.verbs.login import administrator
from stack.verbs.names import names_of
from stack.verbs.spares import MARGIN, waiting
from stack.verbs.store import FILLING, HALF_DROPPED, OURS

if TYPE_CHECKING:
    from typing_extensions import LiteralString

_STAYS: LiteralString = f"""
SELECT 'database ' || encode(convert_to(datname, 'UTF8'), 'hex') AS told FROM pg_database
WHERE datname ~ '{OURS}' AND (datconnlimit IN ({MARK}, {HALF_DROPPED}, {FILLING})
                              OR starts_with(shobj_description(oid, 'pg_database'), '{COMMENT}'))
   OR starts_with(shobj_description(oid, 'pg_database'), '{COMMENT}')
      AND position('"fork of": ' IN shobj_description(oid, 'pg_database')) > 0
UNION ALL
SELECT 'subscription ' || encode(convert_to(subname, 'UTF8'), 'hex') FROM pg_subscription
WHERE subenabled OR subslotname IS NOT NULL"""  # noqa: S608 - constants
"""What is not to go on in a copy: databases of ours, and subscriptions, which would take their publisher's changes."""
_UNLOGGED: LiteralString = """
SELECT oid::regclass::text FROM pg_class WHERE relpersistence = 'u' AND relkind IN ('r', 'm') ORDER BY 1"""
"""What is empty in a copy that is taken out of a server."""
_TABLESPACES: LiteralString = "SELECT spcname FROM pg_tablespace WHERE starts_with(pg_tablespace_location(oid), '/')"


@dataclass
class Full:
    """What has been copied."""

    parts: dict[str, Path] = field(default_factory=dict)
    """The directories that are whole, by the name that each is to have in data/."""
    size: int = 0
    stays: set[str] = field(default_factory=set)
    """What _STAYS tells of them."""
    unlogged: list[str] = field(default_factory=list)
    """The tables of the user's database that are empty in it."""

    def those(self, kind: str) -> list[str]:
        """Return the names of the databases or the subscriptions among what is not to go on."""
        found = (each.split() for each in self.stays)
        return sorted(bytes.fromhex(name).decode() for what, name in found if what == kind)


def refuse_half(*, isolated: bool, data: bool, only_with_data: bool) -> None:
    """Raise Refused when an option is typed that means nothing without another one."""
    if data and not isolated:
        raise Refused(f"--data is for a second checkout. Nothing was done. Type `{sibling.AGAIN}`.")
    if only_with_data and not data:
        raise Refused(f"--from and --snapshots say which data. Nothing was done. Type `{sibling.AGAIN}` with them.")


def init_full(root: Path, source: str, *, password: bool, snapshots: bool) -> str:
    """Write `.env` and fill `data/` from another checkout's, and say what was done. Raises Refused, StackError.

    Killed at any moment it has made all of the data, or none; typed again it begins anew.
    """
    if password:
        raise Refused(
            "The data comes with its password, so a random one would not fit it. Nothing was done. Leave out"
            " --password; for another one, change it in `.env` afterwards: `invoke doctor --fix` gives it to the"
            " database."
        )
    folder = sibling.find(root, source)
    init.refuse_if_running(root)
    disk.refuse_if_linked(root / "data")
    trash.settle(root)
    _refuse_if_full(root)
    with choose.changing(folder) as chosen:
        theirs = sibling.with_its_data(chosen)
        sibling.engine_for(root, theirs)  # before anything is written
        made_by = _made_by(theirs)
        told = init.init(root, isolated=True, along=sibling.along(root, folder))
        mine = sibling.engine_for(root, theirs)
        checked = meanwhile(lambda: sibling.refuse_if_other_version(mine, theirs, made_by))
        wipe.tidy(mine)
        _refuse_without_room(root, theirs, snapshots=snapshots)
        try:
            full = _copied(mine, theirs, checked, snapshots=snapshots)
            leaf = need(theirs.data, theirs).place().name
            trash.take_place(root, full.parts, leaf)
        except BaseException:
            wipe.tidy(mine)
            raise
        if snapshots:
            with suppress(OSError):  # what it repeats is in the cluster
                names = names_of(theirs.root / "data" / leaf).read_text(encoding="utf-8")
                files.write_text(names_of(root / "data" / leaf), names, mode=0o644)
    return f"{told}\n{_told(full, theirs)}"


def _refuse_if_full(root: Path) -> None:
    for half in halves.all_of(root) if not choose.with_data(root) else []:
        halves.give_up(half)  # of a cluster that has never come to be here
    for leaf in (*catalog.STATEFUL, "embedded"):
        if disk.has_data(root / "data" / leaf):
            raise Refused(
                f"There is data in {root / 'data' / leaf} already, and only an empty checkout is filled. Nothing was"
                " done.",
                cure=f"Type `invoke up` to use it; or `invoke reset-data`, which deletes it, then `{sibling.AGAIN}`.",
            )


def _made_by(theirs: Engine) -> str:
    """Return the version that made the other's data. Raises Refused where there is none, or it is elsewhere."""
    data = need(theirs.data, theirs)
    place = data.place()
    if not isinstance(place, Path) or place.parent != theirs.root / "data" or place.is_symlink():
        raise Refused(f"{theirs.root} keeps its data in {place}, which is not copied from here. Nothing was done.",
                      cure=sibling.by_dump(theirs))  # fmt: skip
    if theirs.convex and (elsewhere := theirs.convex.elsewhere()):
        raise Refused(f"The Convex of {theirs.root} keeps its state in {elsewhere}, which is not copied from here."
                      " Nothing was done.",
                      cure=f"The database alone can be brought over as a dump. {sibling.by_dump(theirs)}")  # fmt: skip
    if not data.there(place) or not (there := data.read(pgdata.VERSION)):
        raise Refused(
            f"There is no data in {theirs.root} yet. Nothing was done.",
            cure="Type `invoke up` there, then the command again; or leave out --data, and begin empty.",
        )
    if exchange.marks(theirs.root):
        raise Refused(
            f"A restore in {theirs.root} was interrupted between the database and Convex. Nothing was done.",
            cure="Type `invoke up` there, which finishes it or takes it back; then the command again.",
        )
    return pgdata.made_by(there)


def _refuse_without_room(root: Path, theirs: Engine, *, snapshots: bool) -> None:
    paths = [need(theirs.data, theirs).place(), *_of_convex(theirs, snapshots=snapshots).values()]
    wanted, left = sum(wipe.size(theirs, path) or 0 for path in paths), disk.free(root / "data")
    if left < wanted + MARGIN:
        raise Refused(
            f"There is no room for a copy of the data of {theirs.root}: it takes {human(wanted)}, and {human(left)} of"
            f" the disk of {root} are free. Nothing was copied.",
            cure="Make room, then type the command again.",
        )


def _of_convex(theirs: Engine, *, snapshots: bool) -> dict[str, Path]:
    """Return the directories of Convex that are to come along, by their names in data/."""
    found = {path.name: path for path in [halves.home(theirs)] if path}
    if theirs.convex and snapshots:
        found |= {half.name: half for half in halves.all_of(theirs.root) if "-spare-" not in half.name}
    return found


def _copied(mine: Engine, theirs: Engine, checked: Callable[[], object], *, snapshots: bool) -> Full:
    """Copy everything beside its place, once it is `checked`. Raises StackError."""
    full, copies = Full(), need(theirs.copies, theirs)
    leaf = need(theirs.data, theirs).place().name
    cluster = full.parts[leaf] = _scratch(mine.root, leaf)
    cluster.mkdir(0o700)
    runs = any(
        each.name == catalog.POSTGRES.name and each.state in ("running", "paused", "restarting")
        for each in theirs.services()
    )
    with waiting(f"a copy of the data of {theirs.root}"), ExitStack() as stack:
        with _there(theirs) if runs else nullcontext():
            copying = stack.enter_context((copies.backup if runs else copies.copy)(cluster))
        beside = _beside(stack, mine.root, theirs, snapshots=snapshots)
        full.parts.update({name: target for name, (_, target, _) in beside.items()})
        server = _asked(stack, theirs) if runs else None
        if server:
            _refuse_tablespaces(server, theirs)
            full.unlogged = _unlogged(server)
            full.stays.update(told for (told,) in server.rows(_STAYS))
        checked()
        copying.ready()
        copying.go()
        if server:  # a spare may have been made meanwhile
            full.stays.update(told for (told,) in server.rows(_STAYS))
        full.size = sum(_copy_convex(theirs, *each) for each in beside.values()) + copying.finish()
    if not runs:
        full.stays = set(need(mine.copies, mine).alone(cluster, f"{_STAYS};\n\n"))
    _leave_out(mine, cluster, full, snapshots=snapshots)
    return full


def _beside(stack: ExitStack, root: Path, theirs: Engine, *, snapshots: bool) -> dict[str, tuple[Path, Path, Copying]]:
    """Begin to make ready to copy the directories of Convex: each with where it is, where to, and what copies it."""
    found, convex = {}, theirs.convex
    for name, source in _of_convex(theirs, snapshots=snapshots).items() if convex else ():
        assert convex
        target = _scratch(root, "convex")
        in_use = source == convex.directory()
        found[name] = (
            source,
            target,
            stack.enter_context(convex.copying(source, target, convex.image()[0], still=in_use)),
        )
    return found


@contextmanager
def _there(theirs: Engine) -> Iterator[None]:
    """Say of a failure where it is to be mended."""
    try:
        yield
    except StackError as error:
        raise StackError(f"{theirs.root} cannot be asked, and nothing was copied. There: {error}", error.code) from None


def _asked(stack: ExitStack, theirs: Engine) -> Cluster:
    with _there(theirs):
        return stack.enter_context(administrator(theirs, "invoke"))


def _scratch(root: Path, leaf: str) -> Path:
    return root / "data" / f".new-{leaf}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _refuse_tablespaces(server: Cluster, theirs: Engine) -> None:
    if found := [name for (name,) in server.rows(_TABLESPACES)]:
        raise Refused(
            f"The database of {theirs.root} has a tablespace outside of its directory ({', '.join(found)}), and two"
            " servers cannot share that. Nothing was copied.",
            cure=sibling.by_dump(theirs),
        )


def _unlogged(server: Cluster) -> list[str]:
    if server.oid(server.database) is None:
        return []
    with server.within(server.database) as session:
        return [name for (name,) in session.execute(_UNLOGGED).fetchall()]


def _copy_convex(theirs: Engine, source: Path, target: Path, copying: Copying) -> int:
    """Copy a directory of Convex's, which stands still meanwhile if it is the one in use; return the bytes in it."""
    convex = need(theirs.convex, theirs)
    try:
        with ExitStack() as stack:
            copying.ready()
            if source != convex.directory():
                copying.go()
                return copying.finish()
            still = stack.enter_context(convex.still())
            if still.why_stopped:  # what was to look whether it stands still has ended with it
                copying = stack.enter_context(convex.copying(source, target, convex.image()[0]))
                copying.ready()
            copying.go()
            still.go_on()
            return copying.finish()
    except StackError as error:
        raise StackError(error.what, cure="Mend that, then type the command again.") from None


def _leave_out(mine: Engine, cluster: Path, full: Full, *, snapshots: bool) -> None:
    """Drop what is not to come along, before anybody sees it, and let no subscription of the copy go on."""
    if snapshots:
        full.stays = {each for each in full.stays if each.startswith("subscription")}
    full.stays -= {f"database {mine.settings.database.encode().hex()}"}  # a fork that somebody works in
    if full.stays:
        need(mine.copies, mine).alone(cluster, leaving_out(full.those("database")))


def _told(full: Full, theirs: Engine) -> str:
    also = " with Convex" * any(name == catalog.BACKEND.leaf for name in full.parts)
    words = [f"It has a copy of the data of {theirs.root}{also} ({human(full.size)})."]
    if full.those("database"):
        words.append("Snapshots and forks are left out; --snapshots brings them along.")
    if full.unlogged:
        words.append(
            f"Unlogged tables are empty in it, since no server hands their rows out: {', '.join(full.unlogged)}. They"
            f" come along when `invoke down` was typed in {theirs.root} first."
        )
    if subscriptions := full.those("subscription"):
        words.append(f"Subscriptions that are switched off here: {', '.join(subscriptions)}.")
    return f"{' '.join(words)} `invoke up` starts it."
