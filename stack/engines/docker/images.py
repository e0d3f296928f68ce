"""The images of the services: which are missing, and how they come."""

from __future__ import annotations

import re

from stack.engines.docker import words
from stack.engines.docker.plan import POSTGRES, Plan
from stack.ground.catalog import SERVICES
from stack.ground.errors import StackError
from stack.ground.run import do, look
from stack.server.programs import MAJOR

# Docker's words, and podman's under the name docker: docker/compose#12977, frostyard/intuneme#51.
_NO_COMMAND = "no command specified|no command or entrypoint provided"
_MISSING = "No such image|image not known"


class Images:
    """The images of one checkout's services."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def missing(self) -> list[str]:
        """Return the images that this stack needs and this machine does not have."""
        images = {service["image"] for service in self.plan.config["services"].values() if "image" in service}
        asked = {image: look(["docker", "image", "inspect", image]).stderr for image in images}
        return sorted(image for image, said in asked.items() if re.search(_MISSING, said))

    def pull(self, *, missing: bool = False) -> None:
        """Fetch the images, or the missing ones, with Compose's own progress. Raises StackError when that fails."""
        # By name: `--policy missing` would still ask a registry for whatever is tagged latest.
        wanted = self.missing() if missing else []
        names = [name for name, spec in self.plan.config["services"].items() if spec.get("image") in wanted]
        if do(self.plan.compose("pull", *names)):
            absent = self.missing()
            raise StackError(
                f"Images could not be pulled ({', '.join(absent) or 'some'} missing); the reason stands above. Mend the"
                f" network or the image's name{self.settings_of(absent)}, then type the command again."
            )

    def settings_of(self, images: list[str]) -> str:
        """Return the settings that name some images, in brackets; empty for those of a layer that has none."""
        services = self.plan.config["services"]
        names = [each.image[0] for each in SERVICES if services.get(each.name, {}).get("image") in images]
        return f" ({', '.join(names)})" if names else ""

    def why_not(self, image: str) -> str:
        """Return why an image's registry does not give it; empty when it does, which takes seconds."""
        exact = re.sub(r":[^:/@]+@", "@", image)  # the digest says it all
        asked = look(["docker", "manifest", "inspect", exact], timeout=20)
        return asked.stderr.strip() if asked.returncode else ""

    def explain(self, said: str) -> StackError:
        """Turn what Docker said of a start into words: of an image without a command it does not say whose it is."""
        idle = self._idle() if re.search(_NO_COMMAND, said, re.IGNORECASE) else []
        if not idle:
            return words.explain(said)
        images = [self.plan.config["services"][name]["image"] for name in idle]
        whose = " and ".join(f"{image} (of {name})" for image, name in zip(images, idle, strict=True))
        return StackError(
            f"Docker does not know what to run: {whose} names no command. It said:\n{said.strip().splitlines()[-1]}\n",
            cure=f"Correct the image's name{self.settings_of(images)}, or give the service a `command:` in a layer of"
            " your own; then type `invoke up`.",
        )

    def _idle(self) -> list[str]:
        """Return the services of which neither the Compose files nor their image say what to run."""
        form = "{{json .Config.Cmd}} {{json .Config.Entrypoint}}"
        asked = {
            name: look(["docker", "image", "inspect", "--format", form, spec["image"]]).stdout.split()
            for name, spec in self.plan.config["services"].items()
            if "image" in spec and not (spec.get("command") or spec.get("entrypoint"))
        }
        return [name for name, told in asked.items() if told and {*told} <= {"null", "[]"}]

    def major(self) -> int:
        """Return the major version of PostgreSQL in the chosen image; 0 when nobody can tell."""
        return int(self._told("PG_MAJOR") or 0)

    def release(self) -> str:
        """Return the version of PostgreSQL in the chosen image, such as 17.11; empty when nobody can tell."""
        return self._told("PG_VERSION")

    def _told(self, name: str) -> str:
        """Return the number that a variable of PostgreSQL's image begins with."""
        image = self.plan.config["services"].get(POSTGRES, {}).get("image", "")
        variables = look(["docker", "image", "inspect", "--format", "{{json .Config.Env}}", image]).stdout
        told = re.search(rf'"{name}=([\d.]+)', variables)
        return told[1] if told else ""


def too_new_image(runs: int) -> tuple[str, str]:
    """Return why an image of a newer major version than the stack's is not started, and the cure."""
    return (
        f"The image is PostgreSQL {runs}, which keeps its data elsewhere than this stack's {MAJOR}.",
        f"Set POSTGRES_IMAGE back to PostgreSQL {MAJOR}.",
    )
