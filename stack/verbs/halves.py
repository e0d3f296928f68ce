"""The half of a save point that is Convex's: directories beside data/convex, each with the name of a database of ours.

The databases alone tell what there is: a directory whose database is gone is nobody's, and is cleared away.
"""

from __future__ import annotations

import os
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stack.engines.backend import Convex, Copying, Still
from stack.engines.base import Engine, need
from stack.ground import files
from stack.ground.errors import Refused, StackError
from stack.ground.talk import say
from stack.ground.threads import beside
from stack.ground.trash import put_aside
from stack.server.admin import Cluster
from stack.server.queries import HELD
from stack.verbs.drop import kept_back
from stack.verbs.store import SNAPSHOT, SPARE, Snapshot, all_stored

if TYPE_CHECKING:
    from psycopg import Connection

UNFINISHED = ".new-convex-"
HALF = ".convex-"
"""How the name of each such directory begins; the cluster's identifier and the rest of its database's name follow."""


class Halves:
    """The directories that belong to the databases of one cluster."""

    def __init__(self, engine: Engine, cluster: Cluster) -> None:
        self.data = engine.root / "data"
        self.cluster = cluster
        self.identifier = str(cluster.rows("SELECT system_identifier FROM pg_control_system()")[0][0])

    def of(self, database: str) -> Path:
        """Return the directory of a database of ours."""
        return self.data / f"{HALF}{self.identifier}-{database.removeprefix('stack-')}"

    def clear(self, wanted: Snapshot | None) -> None:
        """Take away the directories whose database is gone, and the spares of all but one snapshot.

        To be called while no other command is at work, and no exchange is half-way.
        """
        names = {each.name for each in all_stored(self.cluster) if each.is_snapshot or each.is_kept}
        if kept := kept_back(self.cluster):
            names.add(SNAPSHOT + kept.was.id)  # that of a snapshot keeps its name
        if wanted:
            names.add(SPARE + wanted.id)
        keep = {self.of(name) for name in names}
        for half in self.data.glob(f"{HALF}{self.identifier}-*"):
            if half not in keep:
                give_up(half)


def give_up(half: Path) -> None:
    """Let a directory be one that is deleted in the background, and by the next `up`."""
    with suppress(OSError):
        put_aside(half)


def all_of(root: Path) -> list[Path]:
    """Return every such directory of a checkout, whichever cluster it belongs to."""
    return sorted((root / "data").glob(f"{HALF}*"))


def home(engine: Engine) -> Path | None:
    """Return the directory that is Convex's own; None where there is no Convex, or nothing of it."""
    return engine.convex.directory() if engine.convex else None


def new(root: Path) -> Path:
    """Return where a directory is made that is not whole yet; while this process lives it is spared by its name."""
    return root / "data" / f"{UNFINISHED}{os.getpid()}-{uuid.uuid4().hex}"


@dataclass
class Copied:
    """What is saved of Convex."""

    half: Path | None = None
    """None: the database alone."""
    image: str = ""
    built: str = ""
    copying: Copying | None = None
    size: int = 0
    tables: str = ""
    """The copy of the database in which Convex keeps its tables; empty: they are in that directory."""
    still: Still | None = None

    @property
    def stood(self) -> str:
        """How long Convex stood still, for the middle of a message; empty when it did not run."""
        if not self.still or not self.still.seconds:
            return ""
        if self.still.why_stopped:
            return f", which was stopped for {self.still.seconds:.1f} s (it cannot be frozen: {self.still.why_stopped})"
        return f", which stood still for {self.still.seconds:.2f} s"

    def paths(self, engine: Engine) -> tuple[Path, Path]:
        """Return what is copied, and where to."""
        assert self.half
        return engine.root / "data" / "convex", self.half


@contextmanager
def copier(engine: Engine, *, wanted: bool, what: str = "the snapshot") -> Iterator[Copied]:
    """Begin to make ready to copy Convex's directory, where it is wanted and there is one, for what is so called."""
    convex = engine.convex
    if not convex or not (wanted and home(engine)):
        if convex and wanted and (place := convex.elsewhere()):
            say(f"Convex keeps its state in {place}: {what} is of the database alone.")
        yield Copied()
        return
    copied = Copied(new(engine.root), *convex.image())
    with convex.copying(*copied.paths(engine), copied.image, still=True) as copied.copying:
        yield copied


@contextmanager
def same_moment(engine: Engine, cluster: Cluster, copied: Copied) -> Iterator[None]:
    """Copy Convex's directory, then let the database be copied within, at one moment.

    Convex stands still from the one to the other: once the copy of the database has its lock, what anybody writes comes
    after both. Raises StackError; what was copied by then is cleared away.
    """
    if not engine.convex or not copied.copying:
        yield
        return
    errors: list[StackError] = []
    ours = [cluster.connection.info.backend_pid, cluster.oid(cluster.database)]  # it is busy afterwards
    with cluster.beside() as third, standing_still(engine, copied):
        with beside(lambda done: _go_on(third, ours, copied, done, errors)):
            yield
        if errors:
            raise errors[0]


@contextmanager
def standing_still(engine: Engine, copied: Copied) -> Iterator[None]:
    """Copy Convex's directory, and let Convex stand still until this is left, or `copied.still.go_on`.

    Raises StackError; what was copied by then is cleared away.
    """
    convex = need(engine.convex, engine)
    assert copied.copying
    copied.copying.ready()
    with ExitStack() as stack, convex.still() as copied.still:
        if copied.still.why_stopped:  # what was to look whether it stands still has ended with it
            copied.copying = stack.enter_context(convex.copying(*copied.paths(engine), copied.image))
            copied.copying.ready()
        copied.copying.go()
        yield
        copied.still.go_on()
        copied.size = copied.copying.finish()


def _go_on(
    third: Connection[Any], ours: list[int | None], copied: Copied, done: threading.Event, errors: list[StackError]
) -> None:
    """Let Convex go on as soon as nobody can write to the database any more before it is copied."""
    import psycopg

    try:
        while not done.wait(0.002) and not third.execute(HELD, ours).fetchall():
            pass
        if copied.still:
            copied.still.go_on()
    except psycopg.Error:
        pass  # it goes on when the copy is made
    except StackError as error:
        errors.append(error)


def copy(convex: Convex, halves: Halves, source: Path, target: Path) -> None:
    """Copy a directory that nobody uses; it has its name when it is whole. Raises StackError."""
    made = new(halves.data.parent)
    with convex.copying(source, made, convex.image()[0]) as copying:
        copying.ready()
        copying.go()
        copying.finish()
    try:
        made.rename(target)
    except OSError:
        give_up(made)
        if not target.is_dir():  # else somebody else has made it meanwhile
            raise
    files.sync_directory(halves.data)


def same(half: Path, other: Path) -> bool:
    """Return whether two directories have the same files, by name, size and time; False where nobody may look."""
    try:
        return _listed(half) == _listed(other)
    except OSError:
        return False


def _listed(directory: Path) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}

    def fails(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(directory, onerror=fails):
        for name in (*folders, *names):
            facts = Path(place, name).lstat()
            size = -1 if name in folders else facts.st_size
            found[os.path.relpath(Path(place, name), directory)] = (size, facts.st_mtime_ns)
    return found


class Image(NamedTuple):
    """The image of a backend."""

    name: str
    built: str
    """When that was; empty where nobody can tell."""


def compare(what: str, its: Image, here: Image, without: str) -> None:
    """Raise Refused when what was written with one backend is too new for another; say so when it is older.

    `what` is how that is said, up to `with`; `without` the way on without Convex.
    """
    if newer(its.built, here.built):
        has = f"Set CONVEX_BACKEND_IMAGE={its.name} and type `invoke up`"
        has = "Type `invoke up --pull`" if here.name == its.name else has  # a name that moves, as a tag does
        raise Refused(
            f"{what} with the Convex backend {its.name}, which is newer than the one here, {here.name}: Convex's"
            " migrations go forward only. Nothing was done.",
            cure=f"{has}, then the command again. {without}",
        )
    if newer(here.built, its.built):
        done = what.rsplit(maxsplit=1)[-1]
        say(f"It was {done} with an older Convex backend, {its.name}: Convex migrates it when it starts.")


class Keys:
    """Whether admin keys of Convex that were given out still work when another directory is in the place of its own."""

    def __init__(self, engine: Engine) -> None:
        self._convex = need(engine.convex, engine)
        self._key = ""
        if home(engine) and not engine.settings.has_secret:
            with suppress(StackError):  # it does not run
                self._key = self._convex.key()

    def tell(self, which: str) -> None:
        """Say so when they do not."""
        if self._key and not self._convex.accepts(self._key):
            say(f"Admin keys that were {which} no longer work. `invoke admin-key` prints a new one.")


def newer(built: str, other: str) -> bool:
    """Return whether an image was built after another one; False where nobody can tell."""
    form = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?Z")  # Docker tells it in UTC
    moments = [form.fullmatch(each) for each in (built, other)]
    if not all(moments):
        return False
    first, second = ((found[1], (found[2] or "").ljust(9, "0")) for found in moments if found)
    return first > second
