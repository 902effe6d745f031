"""Tables fit the screen: names stay whole, columns go by their rank, and what went is named."""

import pytest
from rich.console import Console

from quantmill.tables import Column, fitting

COLUMNS = [Column("variant", right=False), Column("size"), Column("ratio", 2), Column("speed", 1)]
ROWS = [
    ["bitsandbytes-nf4 (42 % fallback)", "[green]105.3[/]", "1.042", "98.4"],
    ["gguf-q8_0", "145.1", "1.001", "12.0"],
]


@pytest.mark.parametrize(
    ("width", "shown", "left_out"),
    [
        (200, "size ratio speed", ""),
        (55, "size speed", "ratio"),
        (50, "size", "ratio, speed"),
        (20, "size", "ratio, speed"),
    ],
)
def test_columns_go_by_rank(width: int, shown: str, left_out: str) -> None:
    table = fitting("title", COLUMNS, ROWS, width)
    assert " ".join(str(column.header) for column in table.columns[1:]) == shown
    assert table.caption == (f"not shown at this width: {left_out}; --json has all" if left_out else None)


def test_names_stay_whole() -> None:
    console = Console(width=60, record=True)
    console.print(fitting("title", COLUMNS, ROWS, console.width))
    assert "bitsandbytes-nf4 (42 % fallback)" in console.export_text()
