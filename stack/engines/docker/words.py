"""What Docker says, in words for people."""

from __future__ import annotations

import contextlib
import os
import re
import sys

from stack.engines.docker.published import publishes
from stack.ground import ports
from stack.ground.errors import StackError
from stack.ground.run import look

NEEDED = {"Engine": (25, 0), "Compose": (2, 24)}
"""The oldest versions that serve: a health check's start_interval, and `!override` in a layer."""
PODMAN = "podman"
"""What the version of an engine begins with that is podman: it counts otherwise, and calls its own `Engine`'s."""
_IF_PODMAN = f'{{{{range .Server.Components}}}}{{{{if eq .Name "Podman Engine"}}}}{PODMAN} {{{{end}}}}{{{{end}}}}'
VERSIONS = {
    "Engine": ("version", "--format", _IF_PODMAN + "{{.Server.Version}}"),
    "Compose": ("compose", "version", "--short"),
}
# The last is the client's since Engine 29.
_NO_ANSWER = (
    "Cannot connect to the Docker daemon|error during connect|docker daemon is not running"
    "|failed to connect to the docker API"
)
# "Bind for A:P failed: port is already allocated" (a container has it), "listen tcp4 A:P: bind: address already in
# use" (a process), since Engine 28 "failed to bind host port A:P/tcp: address already in use", and of a program of
# Windows' "bind: Only one usage of each socket address (…) is normally permitted" (dataelement/bisheng#1368).
_IN_USE = re.compile(
    r"(?:Bind for|listen tcp[46]?|host port(?: for)?) "
    r"([\d.]+|\[[\da-f:]*\]|[\da-f:]*):(\d+)[^\n]*(?:already (?:allocated|in use)|Only one usage of each socket)"
)


def explain(stderr: str) -> StackError:
    """Turn what Docker said into what happened, why, and what to type."""
    said = "\n".join(
        line for line in stderr.strip().splitlines() if not re.match(r"\s*(Container|Network|Image) ", line)
    )
    said = said or "Docker gave no reason"
    if "permission denied" in said and "sock" in said:
        return StackError(
            f"Docker's socket is there, but you may not talk to it. It said:\n{said}\n",
            cure="Type `sudo usermod -aG docker $USER`, log in again, and repeat the command.",
        )
    if re.search(_NO_ANSWER, said, re.IGNORECASE):
        names = [name for name in ("DOCKER_HOST", "DOCKER_CONTEXT") if os.environ.get(name)]
        led = f" or, since that is where it was asked, unset {' and '.join(names)}" if names else ""
        return StackError(
            f"Docker does not answer. It said:\n{said}\n",
            cure=f"Start it (Docker Desktop, or `sudo systemctl start docker`){led}, then repeat the command.",
        )
    if re.search(r"is not a docker command|unknown shorthand flag|unknown flag: --(?:project-directory|short)", said):
        return StackError(
            "This Docker has no Compose plugin, and the stack needs Compose 2.24 or newer.",
            cure="Install it (https://docs.docker.com/compose/install/), then repeat the command.",
        )
    if found := re.search(r"Mounts denied:?\s+.*?The path (\S+)", said, re.DOTALL):
        return StackError(
            f"Docker Desktop may not see {found[1]}. It said:\n{said}\n",
            cure="Share that folder in its Settings, Resources, File sharing; or move the checkout to one that is"
            " shared, as those in your home are. Then repeat the command.",
        )
    if found := _IN_USE.search(said):
        address, port = found[1].strip("[]"), int(found[2])
        listed = look(["docker", "ps", "--filter", f"publish={port}", "--format", "{{.Names}}\t{{.Ports}}"]).stdout
        rows = [line.split("\t") for line in listed.splitlines()]
        names = [name for name, published in rows if publishes(published, address, port)]
        holder = f"the container {names[0]}" if names else ports.holder(port, address)
        return ports.taken(f"Port {port} is taken by {holder}.")
    versions = {}
    with contextlib.suppress(StackError):
        versions = {name: look(["docker", *asking]).stdout.strip() for name, asking in VERSIONS.items()}
    return too_old(versions) or StackError(f"Docker refused:\n{said}\n", cure="Mend that, then repeat the command.")


def too_old(found: dict[str, str]) -> StackError | None:
    """Return what to say of versions, by component, of which one does not serve; None when all do."""
    for name, wanted in NEEDED.items():
        if found.get(name, "").startswith(PODMAN):
            continue
        if _version(found.get(name, "")) < wanted:
            return StackError(
                f"Docker {name} {found[name]} is too old: the stack needs {wanted[0]}.{wanted[1]} or newer.",
                cure="Update it (https://docs.docker.com/engine/install/), then type the command again.",
            )
    return None


def _version(told: str) -> tuple[int, ...]:
    """Return major and minor as integers (`v2.26.1-4`, `5.0`); what cannot be read counts as new."""
    return tuple(int(number) for number in re.findall(r"\d+", told)[:2]) or (sys.maxsize,)
