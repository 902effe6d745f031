"""docs/methods.md has a row for every architecture, a column for every width, and no empty cell."""

from pathlib import Path

import pytest

from benchmarks import matrix_page, matrix_work
from benchmarks.architectures import ARCHITECTURES
from quantmill.recipe.methods import METHODS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods.md"


def table(heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading, its rule left out."""
    part = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line[:1] == "|"]
    return [row for row in rows if not set("".join(row)) <= {"-"}]


@pytest.mark.parametrize("name", matrix_page.TRIED)
def test_every_width_and_architecture_has_a_cell(name: str) -> None:
    head, *rows = table(name)
    row = METHODS[name]
    assert head[1:] == [f"{width} bit" if not row.types else width for width in matrix_page.widths(row)]
    assert [cells[0].strip("`") for cells in rows] == list(ARCHITECTURES)
    for cells in rows:
        assert len(cells) == len(head)
        assert all(cell.startswith(("yes (", "partly: ", "refused [")) for cell in cells[1:]), (
            "nothing fails after work began"
        )


@pytest.mark.parametrize("name", matrix_page.TRIED)
def test_the_matrix_tries_what_the_page_shows(name: str) -> None:
    assert [column for column, _ in matrix_work.specs_of(name)] == matrix_page.widths(METHODS[name])


def test_the_facts_are_those_of_the_rows() -> None:
    _, *rows = table("The methods")
    assert [row[0].strip("`") for row in rows] == list(METHODS)
    for name, _, options, calibrated, loaders, fine_tuning in rows:
        row = METHODS[name.strip("`")]
        assert all(f"{option.name} ({str(option.default).lower()})" in options for option in row.options)
        assert (calibrated, loaders) == ("yes" if row.calibrated else "no", ", ".join(row.loaders))
        assert fine_tuning == row.fine_tuning


@pytest.mark.parametrize(
    ("cell", "words", "note"),
    [
        ({"status": "refused", "reason": "no"}, "refused", "no"),
        ({"status": "failed", "reason": "died"}, "fails", "died"),
        ({"status": "made", "share": 1.0, "why": "", "off": "", "rms": 0.314}, "yes (0.31)", ""),
        ({"status": "made", "share": 1.0, "why": "", "off": "", "rms": 1e-6}, "yes (1e-06)", ""),
        ({"status": "made", "share": 0.63, "why": "left in bf16", "off": "", "rms": 0.1}, "partly: 63% (0.10)", "left in bf16"),
        ({"status": "made", "share": 1.0, "why": "", "off": "5 bits in place of 4", "rms": 0.1}, "yes (0.10)", "5 bits in place of 4"),
    ],
)  # fmt: skip
def test_cells(cell: dict[str, object], words: str, note: str) -> None:
    assert matrix_page.cell_words(cell) == (words, note)
