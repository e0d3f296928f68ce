"""The volumes that hold a checkout's data: made with its mark, told from those of others, deleted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stack.engines.docker.containers import ENDED, LABEL, Containers
from stack.engines.docker.holders import has_volume
from stack.engines.docker.plan import Plan
from stack.engines.docker.words import explain
from stack.ground import disk
from stack.ground.errors import Refused, StackError
from stack.ground.run import look
from stack.ground.talk import say
from stack.ground.volume import Volume
from stack.server.processes import Holder

PROJECT, DIRECTORY = f"{LABEL}.project", f"{LABEL}.project.working_dir"


class Volumes:
    """The volumes of one checkout."""

    def __init__(self, plan: Plan, containers: Containers) -> None:
        self.plan = plan
        self.containers = containers

    def there(self, volume: Volume) -> bool:
        """Return whether a volume exists."""
        return bool(self._seen([volume]))

    def make(self) -> None:
        """Make the volumes that do not exist yet, with this checkout's mark; Compose gives them its project's alone.

        Two clones have one project name until one of them is given another: without the mark one would delete the
        data of the other. Raises StackError.
        """
        own = self.plan.own_volumes()
        seen = self._seen([*own.values()])
        for leaf, volume in own.items():
            if volume.name in seen:
                continue
            labels = {PROJECT: self.plan.settings.project, f"{LABEL}.volume": leaf, DIRECTORY: self.plan.root}
            marks = [word for name, value in labels.items() for word in ("--label", f"{name}={value}")]
            self.containers.ask("volume", "create", *marks, volume.name)
            self._tell_of_former(leaf, volume)

    def _tell_of_former(self, leaf: str, volume: Volume) -> None:
        """Say where this checkout's data is that a new and empty volume is not."""
        of_leaf = ("--filter", f"label={DIRECTORY}={self.plan.root}", "--filter", f"label={LABEL}.volume={leaf}")
        names = set(self.containers.ask("volume", "ls", "--quiet", *of_leaf).split()) - {volume.name}
        former = [str(Volume(name)) for name in sorted(names)]
        if disk.has_data(directory := self.plan.root / "data" / leaf):
            former.insert(0, str(directory))
        if former:
            say(f"{volume} is new and empty. {' and '.join(former)} keeps what is in it, and nothing uses that now.")

    def refuse_others(self) -> None:
        """Raise Refused when a volume that a start would use is another checkout's, or another project's."""
        own = [*self.plan.own_volumes().values()] if self.plan.guarded_volumes() else []
        for name, labels in self._seen(own).items():
            if found := self._strange(Volume(name), labels):
                raise Refused(f"{found[0]} Nothing was started.", cure=found[1])

    def check_deletable(self, volume: Volume) -> None:
        """Raise Refused unless a volume is plainly this checkout's: by its mark, or by a container that has it."""
        for labels in self._seen([volume]).values():
            found = self._strange(volume, labels)
            ours = any(has_volume(row, volume) for row in self.containers.own())
            made_by = labels.get(DIRECTORY, "")
            if not found and made_by and not disk.same(made_by, self.plan.root):
                found = (
                    f"{volume} was made by a checkout in {made_by}, which is not there now: it may have been this one"
                    " under its former path, or another.",
                    f"Type `invoke up` to see whose data it is; to delete it, `docker volume rm {volume.name}` after"
                    " `invoke down`.",
                )
            if not found and not made_by and not ours:
                found = (
                    f"{volume} was made by Compose itself, which does not write down for which checkout.",
                    "Type `invoke up`, to see whose data it is, then the command again; or"
                    f" `docker volume rm {volume.name}`.",
                )
            if found:
                raise Refused(f"{found[0]} Nothing was deleted.", cure=found[1])

    def _strange(self, volume: Volume, labels: dict[str, str]) -> tuple[str, str] | None:
        """Return why a volume is somebody else's, and the cure; None when nothing tells that."""
        project, directory = labels.get(PROJECT), labels.get(DIRECTORY, "")
        if project != self.plan.settings.project:
            whose = f"belongs to the project {project}" if project else "was made by hand, for no project"
            return f"{volume} {whose}.", (
                "Type `invoke init --isolated` to give this checkout a name, and so volumes, of its own."
            )
        # A directory that is gone is this checkout under its former name.
        if directory and Path(directory).is_dir() and not disk.same(directory, self.plan.root):
            return f"{volume} has the data of another checkout, {directory}.", (
                "Type `invoke init --isolated` to give this checkout a name, and so volumes, of its own."
            )
        return None

    def users(self, volume: Volume) -> list[Holder]:
        """Return the containers of others that have ended and keep a volume from being deleted."""
        return [
            Holder(f"the container {row['name']}, which has ended", f"docker rm {row['name']}")
            for row in self.containers.rows()
            if row["state"] in ENDED and has_volume(row, volume) and not self.containers.is_own(row)
        ]

    def delete(self, volume: Volume) -> None:
        """Delete a volume with all that is in it; raises StackError when Docker does not."""
        told = look(["docker", "volume", "rm", volume.name])
        if told.returncode:
            why = told.stderr.strip().rstrip(".")
            raise StackError(
                f"{volume} could not be deleted: {why}.", cure=f"Mend that, then type `docker volume rm {volume.name}`."
            )

    def _seen(self, volumes: list[Volume]) -> dict[str, dict[str, str]]:
        """Return the labels of those volumes that exist, by name."""
        if not volumes:
            return {}
        told = look(["docker", "volume", "inspect", *(each.name for each in volumes)])
        if told.returncode and "no such volume" not in told.stderr.lower():
            raise explain(told.stderr)
        listed: list[dict[str, Any]] = json.loads(told.stdout or "[]")  # those that are there
        return {each["Name"]: each.get("Labels") or {} for each in listed}
