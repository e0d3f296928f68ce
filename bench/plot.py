"""The picture in the README: how long a restore takes, against the size of the database."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

SIZES = ("small", "middle", "large")


def restore(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw the medians of the rows about `restore` into a file, with time and size both on a logarithmic scale."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "restore"  # the same figures make the same file
    from matplotlib import pyplot as plt

    found = {row["name"]: row for row in rows}
    lines = {
        "dslr restore": [(size, found.get(f"restore-{size}"), "baseline") for size in SIZES],
        "invoke restore, without a spare": [(size, found.get(f"restore-{size}-no-spare"), "ours") for size in SIZES],
        "invoke restore, with a spare": [(size, found.get(f"restore-{size}"), "ours") for size in SIZES],
    }
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for (title, points), style in zip(lines.items(), ("s--", "^-.", "o-"), strict=True):
        there = [(row["sizes"][size], median(row[key])) for size, row, key in points if row]
        axes.loglog(*zip(*there, strict=True), style, label=title)
    axes.set(xlabel="size of the database in MB", ylabel="seconds", title="From the command to a usable database")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(which="both", alpha=0.2)
    axes.legend()
    figure.savefig(file, metadata={"Date": None, "Creator": None})
    plt.close(figure)
