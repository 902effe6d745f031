"""Tables that fit the screen: names are never cut; the least needed columns are left out first."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

_PADDING = 3
_PIPE_WIDTH = 160


class Column(NamedTuple):
    """A column; columns of the highest rank are left out first on a narrow screen, rank 0 always stays."""

    title: str
    rank: int = 0
    right: bool = True


def printable(text: str) -> str:
    """Return a text on one line, with a blank for every control character."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def screen() -> Console:
    """Return the console; in a pipe or a log its width is 160, wide enough for a table."""
    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)


def fitting(title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> Table | Group:
    """Return the table of `rows` (cells in rich's markup) with the columns that fit in `width` characters.

    The caption names the columns that are left out. If even the columns of rank 0 do not fit, each row becomes a paragraph with
    a line for each column. Control characters are not shown.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [
        max(len(column.title), *(Text.from_markup(row[index]).cell_len for row in rows), 0) + _PADDING
        for index, column in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    while sum(widths[index] for index in shown) + 1 > width and any(columns[index].rank for index in shown):
        shown.remove(max(shown, key=lambda index: (columns[index].rank, index)))
    if sum(widths[index] for index in shown) + 1 > width:
        return _paragraphs(title, columns, rows)
    left_out = [column.title for index, column in enumerate(columns) if index not in shown]
    caption = f"not shown at this width: {', '.join(left_out)}; --json has all" if left_out else None
    table = Table(title=title, caption=caption)
    for index in shown:
        table.add_column(columns[index].title, justify="right" if columns[index].right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(row[index] for index in shown))
    return table


def _paragraphs(title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Group:
    """Return each row as lines below its first cell; empty cells are left out."""
    lines = [Text(title, style="italic")]
    for row in rows:
        lines += [Text(), Text.from_markup(row[0])]
        lines += [
            Text.assemble(f"  {column.title} ", Text.from_markup(cell))
            for column, cell in zip(columns[1:], row[1:], strict=True)
            if cell
        ]
    return Group(*lines)
