"""Tables fit the screen: names stay whole, columns are dropped by rank, and dropped columns are named."""

import os
import pty
import re
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from quantmill.commands.tables import Column, fitting
from quantmill.store.places import open_store
from tests import samples

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
    ],
)
def test_columns_go_by_rank(width: int, shown: str, left_out: str) -> None:
    table = fitting("title", COLUMNS, ROWS, width)
    assert isinstance(table, Table)
    assert " ".join(str(column.header) for column in table.columns[1:]) == shown
    assert table.caption == (f"not shown at this width: {left_out}; --json has all" if left_out else None)


def test_names_stay_whole() -> None:
    console = Console(width=60, record=True)
    console.print(fitting("title", COLUMNS, ROWS, console.width))
    assert "bitsandbytes-nf4 (42 % fallback)" in console.export_text()


def test_a_screen_too_narrow_for_the_columns_that_stay_has_a_line_for_each_figure() -> None:
    console = Console(width=40, record=True)
    console.print(fitting("title", COLUMNS, [*ROWS, ["of [bold]three[/]", "", "1", "2"]], console.width))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert lines[:6] == [
        "title",
        "",
        "bitsandbytes-nf4 (42 % fallback)",
        "  size 105.3",
        "  ratio 1.042",
        "  speed 98.4",
    ]
    assert lines[-3:] == ["of three", "  ratio 1", "  speed 2"]


def test_figures_are_shown_at_forty_columns_through_the_command(tmp_path: Path) -> None:
    """On a terminal of 40 columns, as `quantmill list` finds it."""
    store = open_store(tmp_path / "store")
    made = samples.manifest((), name="a-model/autoround-4bit-g64-i20-lr0.01-mlr0.02-s128")
    store.commit(made, samples.version(made, model="a-model", variant=made.name.partition("/")[2]))
    command = [sys.executable, "-m", "quantmill.cli", "list", "--store", str(tmp_path / "store")]
    ours, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 40))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = _read_all(ours)
    assert process.returncode == 0, shown
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in shown.splitlines()]
    assert f"mean KL {made.evaluation.metrics.mean_kl:.4f}" in lines
    assert all(len(line) <= 40 for line in lines)


def _read_all(terminal: int) -> str:
    """Return what a program wrote to a terminal; its end is an error on Linux."""
    shown = b""
    with suppress(OSError):
        while data := os.read(terminal, 4096):
            shown += data
    return shown.decode()
