"""Makes docs/methods.md from the matrix: a table per method, a row per model, a column per width."""

import datetime
import json
from pathlib import Path
from typing import Any

from benchmarks.architectures import ARCHITECTURES
from quantmill.recipe.methods import AS_IT_IS, METHODS, Method

COMMAND = "make matrix"
TRIED = tuple(name for name in METHODS if name not in ("baseline", "imported"))
"""The methods that make an artifact from the model; the others have nothing to try."""
_NEAR_ONE = 0.995
_INTRODUCTION = """# Methods and architectures

What each method takes, and what came of it on {count} architectures. `{command}` wrote this page on {date}; nothing here is
typed by hand. The models are random: two layers, 256 wide, the tokenizer of SmolLM2 (`benchmarks/architectures.py`), on a CPU.

For each cell the artifact was made in one process and opened in another, in its library's arithmetic and in fp32.

- `yes (0.31)`: it has all files, its logits are finite, every matrix of the decoder became what was asked for, and the
  weights take the bits that the format has (`planning.stored_bits`, within 10 %; mixed GGUF types are wider by llama.cpp's
  plan). In brackets the root mean square of what its logits differ by from those of the bf16 weights, over theirs; two
  unrelated models have 1.41. Random weights are harder to round than trained ones: this tells a method that works
  from one that does not, and not which is best. At one and two bits it tells nothing but that it runs.
- `partly: 63 %`: the same, but only this share of the decoder's weights became what was asked for.
- `refused`: a recipe that asks for it ends with this reason before any work (exit code 2).
- `fails`: it ends with this error after work began.

GGUF of `qwen2`, `gemma2` and `phi3` is refused for the borrowed tokenizer, not for the architecture: these need one of their own kind.
"""


def widths(row: Method) -> list[str]:
    """Return the columns of a method: its bits, or its types without those that need an importance matrix."""
    return list(row.widths)


def cell_words(cell: dict[str, Any]) -> tuple[str, str]:
    """Return a cell's words and its footnote."""
    if cell["status"] in ("refused", "failed"):
        return {"refused": "refused", "failed": "fails"}[cell["status"]], cell["reason"]
    if "rms" not in cell:
        return "fails", "nobody opened it"
    ratio = f" ({cell['rms']:.2g})" if cell["rms"] < 0.01 else f" ({cell['rms']:.2f})"
    if cell["share"] < _NEAR_ONE:
        return f"partly: {cell['share']:.0%}{ratio}", cell["why"] or "the rest stays in bf16"
    return f"yes{ratio}", cell["off"]


def page(cells: Path) -> str:
    """Return the page, made from the folder of cells."""
    parts = [
        _INTRODUCTION.format(
            count=len(ARCHITECTURES), command=COMMAND, date=datetime.datetime.now(datetime.UTC).date()
        ),
        "## The methods\n",
        *_methods(),
        "\nThe same facts: `quantmill methods`. Eight of llama.cpp's types need an importance matrix and are refused:",
        f"{', '.join(METHODS['gguf'].unmade_types)}.\n",
        "## The architectures\n",
        "| name | class | what makes it special |",
        "|---|---|---|",
        *(f"| `{name}` | {_class(family)} | {words} |" for name, (words, family, _) in ARCHITECTURES.items()),
        "",
    ]
    for name in TRIED:
        parts += _table(METHODS[name], cells)
    return "\n".join(parts)


def _class(family: str) -> str:
    return f"{family}LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"


def _methods() -> list[str]:
    lines = [
        "| method | bits or types | options (default) | calibrated | loaded by | fine-tuning |",
        "|---|---|---|---|---|---|",
    ]
    for row in METHODS.values():
        options = ", ".join(f"{option.name} ({str(option.default).lower()})" for option in row.options) or "none"
        calibrated = "yes" if row.calibrated else "no"
        loaders = ", ".join(row.loaders)
        lines.append(
            f"| `{row.name}` | {', '.join(widths(row)) or AS_IT_IS} | {options} | {calibrated} | {loaders} | {row.fine_tuning} |"
        )
    return lines


def _table(row: Method, cells: Path) -> list[str]:
    """Return the lines of one method's table, with its notes below."""
    columns, notes = widths(row), dict[str, int]()
    unit = "" if row.types else " bit"
    lines = [
        f"## {row.name}\n",
        f"| | {' | '.join(f'{column}{unit}' for column in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in ARCHITECTURES:
        kept = cells / f"{name}-{row.name}.json"
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
        words = []
        for column in columns:
            cell, note = cell_words(found[column]) if column in found else ("not run", "")
            mark = f" [{notes.setdefault(note, len(notes) + 1)}]" if note else ""
            words.append(f"{cell}{mark}")
        lines.append(f"| `{name}` | {' | '.join(words)} |")
    lines += ["", *(f"{number}. {note}" for note, number in notes.items())]
    return [*lines, ""] if notes else lines
