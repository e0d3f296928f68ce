"""Measure our commands against plain Docker in one run, print one table, keep the figures in bench/results/."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench import both, many, plot, pool, rows, saves
from bench.rows import Row
from bench.sites import Failed, Site, images, sites

ROWS = (*rows.ROWS, *saves.ROWS, *both.ROWS, *pool.ROWS, *many.ROWS)
RESULTS = Path(__file__).parent / "results"
SIZES = {
    "interval": 10,
    "inserts": 200_000,
    "megabytes": 1000,
    "small": 10,
    "loop": 100,
    "rounds": 20,
    "middle": 1000,
    "large": 4000,
    "leases": 1000,
    "stacks": 10,
}
TINY = {
    "interval": 1,
    "inserts": 2_000,
    "megabytes": 10,
    "small": 1,
    "loop": 2,
    "rounds": 2,
    "middle": 5,
    "large": 10,
    "leases": 10,
    "stacks": 2,
}
ENOUGH = 5
"""Runs below which a median judges nothing."""


def main() -> int:
    """Return 0 when everything could be measured, however slow; 1 when a command failed; 2 when nothing can begin."""
    options = _options()
    try:
        chosen = images()
    except FileNotFoundError:
        return _end("`docker` was not found on PATH. Install Docker Engine, then repeat the command.", 2)
    if not chosen:
        return _end("Neither the published images nor the stand-ins are here, or Docker does not answer. Type"
                    " `docker compose -f docker-compose.yml -f docker-compose.dev.yml pull`, or `tests/standin/build`,"
                    " then repeat the command.", 2)  # fmt: skip
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sizes = TINY if options.tiny else SIZES
    report: dict[str, Any] = {"began": _now(), "machine": _machine(), "images": chosen, "sizes": sizes, "rows": []}
    try:
        with sites(chosen, sizes) as made:
            for row in ROWS:
                if row.name in options.only:
                    print(f"measuring {row.name}", file=sys.stderr, flush=True)
                    runs = min(row.times, 2) if options.tiny else min(options.runs * row.times, row.most)
                    report["rows"] += compare(row, made[row.site], runs)
    except Failed as failure:
        _show(report["rows"])
        return _end(str(failure), 1)
    except KeyboardInterrupt:
        return _end("Interrupted; everything that was started is removed.", 130)
    _show(report["rows"])
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{_now().replace(':', '-')}.json"
    file.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    if any(row["name"].startswith("restore-") for row in report["rows"]):
        plot.restore(report["rows"], file.with_suffix(".svg"))
    return _end(f"Seconds: median (min to max). Images: {', '.join(chosen.values())}. Kept in {file}", 0)


def compare(row: Row, site: Site, runs: int) -> list[dict[str, Any]]:
    """Return the figures of one row, in seconds: each baseline and ours in turn, so that noise hits all alike."""
    measures = [*(measure for _, measure, _ in row.baselines), row.ours]
    seconds: list[list[float]] = [[] for _ in measures]
    row.once(site)
    for _ in range(runs):
        for measure, values in zip(measures, seconds, strict=True):
            row.each(site)
            values.append(measure(site))
    found, ours = [], seconds.pop()
    few = runs < min(ENOUGH, row.most)
    for (against, _, target), theirs in zip(row.baselines, seconds, strict=True):
        ratio = median(ours) / median(theirs)
        found.append({
            "name": row.name, "sizes": dict(site.sizes),
            "what": row.what.format_map(site.sizes), "against": against.format_map(site.sizes),
            "baseline": theirs, "ours": ours, "ratio": ratio, "target": target,
            "verdict": "shown" if target is None or few else "met" if ratio <= target else "missed",
        })  # fmt: skip
    return found


def _show(found: Sequence[dict[str, Any]]) -> None:
    terminal = sys.stdout.isatty()
    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False)
    for title in ("what", "against", "baseline", "ours", "ratio", "target", ""):
        table.add_column(title, overflow="fold")
    for row in found:
        target = f"≤ {row['target']:g}" if row["target"] else ""
        style = {"met": "green", "missed": "red"}.get(row["verdict"])
        table.add_row(row["what"], row["against"], _spread(row["baseline"]), _spread(row["ours"]),
                      f"{row['ratio']:.2f}", target, row["verdict"], style=style)  # fmt: skip
    Console(width=None if terminal else 200).print(table)


def _spread(seconds: Sequence[float]) -> str:
    digits = 2 if median(seconds) > 0.1 else 4
    return " ".join(f"{value:.{digits}f}" for value in (median(seconds), min(seconds), max(seconds)))


def _now() -> str:
    return f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"


def _machine() -> str:
    asked = (["version", "--format", "{{.Server.Version}}"], ["compose", "version", "--short"])
    said = (subprocess.run(["docker", *words], check=False, capture_output=True, text=True).stdout for words in asked)
    docker = ", Compose ".join(map(str.strip, said))
    return f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, Docker {docker}"


def _options() -> argparse.Namespace:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--runs", type=int, default=ENOUGH, help=f"runs of each (default: {ENOUGH}; fewer judge nothing)"
    )
    parser.add_argument("--tiny", action="store_true", help="one or two small runs: only that it works")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=" ".join(names))
    return parser.parse_args()


def _end(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
