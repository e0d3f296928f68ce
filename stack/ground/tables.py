"""Columns on a terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from stack.ground.errors import printable
from stack.ground.talk import draw

if TYPE_CHECKING:
    from rich.text import Text

_GAP = 2
"""Characters between two columns."""


def print_columns(
    headings: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    *,
    whole: Collection[str] = (),
    may_go: Sequence[str] = (),
) -> None:
    """Print rows under headings; without a terminal each row stays one line.

    Where a terminal is too narrow, the columns that `may_go` are left out, the first of them first, and then cells are
    folded; those of the columns in `whole` never are, since they are there to be copied.
    """
    from rich.table import Table
    from rich.text import Text

    cells = [[cell if isinstance(cell, Text) else Text(printable(cell, one_line=True)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    shown = _that_fit(headings, widths, may_go)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    for at in shown:
        kept = headings[at] in whole
        table.add_column(headings[at], overflow="fold", no_wrap=kept, min_width=widths[at] if kept else None)
    for row in cells:
        table.add_row(*(row[at] for at in shown))
    # Without a terminal nothing is folded: a row stays one line for grep.
    draw(table, plain_width=1000)


def _that_fit(headings: Sequence[str], widths: Sequence[int], may_go: Sequence[str]) -> list[int]:
    """Return the numbers of the columns that are shown."""
    shown = list(range(len(headings)))
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10**6
    for name in may_go:
        if sum(widths[at] + _GAP for at in shown) - _GAP > room:
            shown.remove(headings.index(name))
    return shown
