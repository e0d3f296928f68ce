"""The commands of the local stack, Convex and PostgreSQL 17; each stands in `stack/commands/`."""

from __future__ import annotations

import sys

if sys.platform == "win32":
    sys.stderr.write(
        "The stack does not run on Windows itself, so nothing was done. Use it in WSL2, with the checkout in the file"
        " system there (~/…, not /mnt/c/…): https://learn.microsoft.com/windows/wsl/install\n"
    )
    raise SystemExit(2)
if sys.version_info < (3, 10):  # noqa: UP036 - who has an older one is told
    sys.stderr.write(
        f"The stack needs Python 3.10 or newer and this is {sys.version.split()[0]}, so nothing was done. With a newer"
        " one beside it type `python3.13 -m venv --clear .venv && . .venv/bin/activate && pip install -r"
        " requirements.txt`, then the command again.\n"
    )
    raise SystemExit(2)

from invoke.collection import Collection
from invoke.tasks import Task

from stack.commands import checkouts, data, databases, invoke_bent, running, save_points, working

invoke_bent.install()

namespace = Collection()
for room in (running, working, data, save_points, databases, checkouts):  # in order of first use
    for command in vars(room).values():
        if isinstance(command, Task):
            namespace.add_task(command)
