"""What can be typed: a function a command, its parameters the options; how it is done stands in `verbs`."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
YES = {"yes": "Do not ask."}
FORK = {"database": "A fork, in the place of the database; `invoke forks` lists them."}
