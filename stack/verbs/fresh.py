"""The database as it is right after the seed: made once, then brought back until what makes it has changed."""

from __future__ import annotations

from dataclasses import replace

from stack.engines.base import Engine, need
from stack.ground.errors import Refused
from stack.ground.talk import counted, say
from stack.server.admin import Cluster
from stack.verbs.drop import BACK
from stack.verbs.recipe import MESSAGE, Recipe, all_kept, recipe, usable
from stack.verbs.restore import bring_back
from stack.verbs.seeds import to_apply
from stack.verbs.store import Snapshot


def fresh(engine: Engine, *, cache: bool = True, yes: bool = False) -> None:
    """Replace what is in the database by what seed/ makes of an empty one, all of it or nothing.

    The result is kept as a snapshot under the fingerprint of all that made it, and only brought back while that is the
    same; else it is made from what is kept of the longest run of unchanged files. Without `cache` it is made anew.
    Raises Refused when seed/ is empty, StackError with psql's words at the first file that fails.
    """
    need(engine.data, engine)  # a server elsewhere has no room for what is kept
    if not (there := to_apply(engine)):
        raise Refused(
            "There is nothing in seed/ to make a database of, so nothing was done. Put files of SQL there, such as"
            " seed/010_schema.sql; `invoke reset-data` deletes what is in the database."
        )
    wanted = recipe(engine.root, there)
    known = cache and not wanted.silent
    if known and bring_back(engine, lambda cluster: _kept(cluster, wanted), only="pg", yes=yes, by="fresh"):
        return
    from stack.verbs import making  # with all that reads files of SQL, which takes longer than bringing back

    database, kept = making.make(engine, wanted, cache=cache, yes=yes)
    back = f" {BACK}" if kept else ""
    say(f"{database} has what {counted(len(there), 'file')} of seed/ make, and nothing else.{back}")


def _kept(cluster: Cluster, wanted: Recipe) -> Snapshot | None:
    """Return what is kept of all files; it may have been made as a part, when more of them followed."""
    found = usable(cluster, all_kept(cluster)).get(wanted.names(cluster)[-1])
    return replace(found, part=False, message=MESSAGE) if found else None
