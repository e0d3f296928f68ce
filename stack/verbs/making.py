"""A database that is made of seed/'s files, from what is kept of as many of them as can be.

What all files make is kept, and what the files before the first one make that had changed since the last time, or
before the last file where that cannot be told: who changes a file changes the same one again. Each takes the room of
the database once more, so of the latter, the parts, there are `PARTS`; they are the first to be given up.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from itertools import takewhile

from stack.engines.base import Engine
from stack.ground.errors import printable
from stack.ground.talk import human, say
from stack.server import waits
from stack.server.admin import Cluster
from stack.verbs import load, made_roles, spares
from stack.verbs.aside import exchanged
from stack.verbs.drop import what_goes
from stack.verbs.facts import MARK, made_comment
from stack.verbs.filled import Aside, make_empty
from stack.verbs.recipe import MESSAGE, Recipe, all_kept, outside, usable
from stack.verbs.seeds import size
from stack.verbs.snapshots import become
from stack.verbs.store import MAKING, Snapshot
from stack.verbs.whole import fill

OF_PART = "seed/ up to {}, for the next fresh"
"""What `invoke snapshots` says of a part."""
PARTS = 2
NOT_KEPT = "It is not kept for the next time"


def make(engine: Engine, wanted: Recipe, *, cache: bool, yes: bool) -> tuple[str, bool]:
    """Put what the files make in the place of the database; return its name, and whether `undo` takes that back."""
    making = _Making(engine, wanted, cache=cache)
    with exchanged(engine, "fresh", make=making.begin, room=size(wanted.files), yes=yes) as place:
        notes = making.fill(place)
    for each in notes:
        say(each)
    return place.cluster.database, place.kept


class _Making:
    """Such a database while it is being made."""

    def __init__(self, engine: Engine, wanted: Recipe, *, cache: bool) -> None:
        self._engine, self._recipe, self._cache = engine, wanted, cache
        self._names: list[str] = []
        self._begun = 0
        """It begins with what so many files make."""
        self._part = 0
        """After so many files the result is kept as well."""

    def begin(self, place: Aside) -> None:
        """Make the database aside."""
        cluster, number = place.cluster, len(self._recipe.files)
        self._names = self._recipe.names(cluster)
        there = all_kept(cluster)
        last = max(there, key=lambda each: each.last_used).seed.split() if there else []
        same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(last, self._names, strict=False))))
        parts = [self._names.index(each.name) + 1 for each in there if each.part and each.name in self._names]
        self._part = min(same if 0 < same < number else max(parts, default=number - 1), self._recipe.known)
        good = usable(cluster, there) if self._cache else {}
        base = next((good[name] for name in reversed(self._names[:-1]) if name in good), None)
        if not base:
            make_empty(place, rules=False)
            place.given = (None, -1, False)
            return
        self._begun = self._names.index(base.name) + 1
        place.name = spares.make_copy(self._engine, cluster, base.stored, base.name, base.size)
        place.given = (base.comment, base.limit, base.template)
        place.named.update(base.roles)
        say(f"seed/ has not changed up to {self._last(self._begun)}: begun with {base.name}, which is kept of that.")

    def _last(self, count: int) -> str:
        return printable(self._recipe.files[count - 1].name, one_line=True)

    def fill(self, place: Aside) -> list[str]:
        """Apply the other files, keep what is worth it, and return what is to be said."""
        at, number, held = self._begun, len(self._recipe.files), list[tuple[str, Snapshot]]()
        notes = list[str]()
        if self._part > at:
            notes = self._apply(place, at, self._part)
            at = self._part
            if not self._why_not(place, at):
                held = [self._copy(place, at)]
                if not made_roles.made_for(place.cluster, place.name):  # else they go when a file fails
                    self._keep(place.cluster, *held.pop())
        notes += self._apply(place, at, number)
        for each in held:
            self._keep(place.cluster, *each)
        if why := self._why_not(place, number):
            return [*notes, why]
        self._keep(place.cluster, *self._copy(place, number))
        return notes

    def _apply(self, place: Aside, begin: int, end: int) -> list[str]:
        files = self._recipe.files[begin:end]
        return load.apply(self._engine, lambda ahead: fill(place, ahead), files, into=place.name, by="fresh")

    def _why_not(self, place: Aside, count: int) -> str:
        """Return why the result of so many files is not kept; empty when it is."""
        cluster = place.cluster
        if count > self._recipe.known:
            names = ", ".join(f"seed/{path.name}" for path in self._recipe.silent)
            return (
                f"{NOT_KEPT}, since what {names} makes may depend on other files. A second line `# reads:` in it, with"
                " their paths from the checkout's directory or with nothing, says on which."
            )
        if read := outside(self._engine.root, place.read):
            return f"{NOT_KEPT}: files of seed/ read {', '.join(read)}, outside of seed/."
        if self._recipe.reads_on(place.read, count):
            return f"{NOT_KEPT}: it was made with files that come later."
        goes = [words for words, _ in what_goes(cluster, place.name)]
        goes += map(str, waits.prepared_in(cluster.connection, cluster.oid(place.name)))
        if goes:
            return f"{NOT_KEPT}, since no copy has {', '.join(goes)}."
        size = cluster.size(place.name)
        if spares.room_left(self._engine, cluster) < 2 * size + spares.RESERVE:  # with the spare
            return f"{NOT_KEPT}: that takes {human(2 * size)}, and the disk is short of room."
        return ""

    def _copy(self, place: Aside, count: int) -> tuple[str, Snapshot]:
        """Copy the result of so many files; return the copy's name, and what it is to be."""
        cluster, now = place.cluster, time.time()
        made, size = MAKING + uuid.uuid4().hex, cluster.size(place.name)
        cluster.copy(place.name, made, limit=MARK, comment=made_comment())
        there = cluster.rows("SELECT rolname FROM pg_roles WHERE rolname = ANY (%s) ORDER BY 1", list(place.named))
        part = count < len(self._recipe.files)
        return made, Snapshot(
            uuid.uuid4().hex, size, "none", self._names[count - 1], cluster.database, now, now, cluster.version,
            OF_PART.format(self._last(count)) if part else MESSAGE, *place.marks(cluster),
            seed=" ".join(self._names[:count]), part=part, roles=[role for (role,) in there],
        )  # fmt: skip

    def _keep(self, cluster: Cluster, made: str, new: Snapshot) -> None:
        """Keep a result: all of seed/ in the place of what was all before, a part in that of parts of another seed."""
        there = all_kept(cluster)
        if not new.part:
            there = [self._made_part(cluster, each) for each in there]
        valid = [each for each in there if each.part and each.name in self._names and each.name != new.name]
        valid = valid if self._cache else [each for each in valid if each.name == self._names[self._part - 1]]
        stays = valid[: PARTS - new.part]
        gone = [each for each in there if each not in stays and (each.part or not new.part or each.name == new.name)]
        become(cluster, made, new, gone)

    def _made_part(self, cluster: Cluster, each: Snapshot) -> Snapshot:
        """Let what all files made before be a part when others have followed."""
        if each.part or each.name not in self._names[:-1]:
            return each
        part = replace(each, part=True, message=OF_PART.format(self._last(self._names.index(each.name) + 1)))
        cluster.set_comment(part.stored, part.facts())
        return part
