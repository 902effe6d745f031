"""Makes the documents of a run from its summary: Markdown, and one HTML page that holds the plot.

The Prefect artifacts, the MLflow run and the files on the disk all use these documents.
"""

import base64
import html as markup
from collections.abc import Sequence
from pathlib import Path

from quantmill.recipe.recipe import GatePolicy
from quantmill.records.report import RunSummary, VariantSummary
from quantmill.records.selection import FIGURES
from tasks.report.markdown import plain
from tasks.report.markdown import row as cells
from tasks.report.plot import plot

_MB = 1e6
_SIGNS = {"accepted": "✓", "rejected": "✗", "failed": "!"}
_PICKS = {
    "quality": "closest to the baseline",
    "size": "fewest bytes",
    "speed": "most tokens decoded per second",
}
_WIDE = ("bits/weight", "p99 KL", "prefill tok/s")
"""Columns that only the HTML page shows: the dashboard gives a table 700 pixels."""
_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --line: #d9d9d9; --soft: #5c5c5c; --head: #f4f5f7;
  --accepted: #005f95; --rejected: #b04a00; --failed: #6b6b6b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #17181a; --line: #3a3c40; --soft: #a8a8a8;
  --head: #232529; --accepted: #6db8ea; --rejected: #ff9a57; --failed: #b0b0b0; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1180px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; } p { margin: .3rem 0; }
.soft { color: var(--soft); } .wide { overflow-x: auto; } code { overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 13.5px; }
th, td { padding: .35rem .55rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { background: var(--head); font-weight: 600; } th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
td:first-child { font-weight: 600; } ul { margin: .3rem 0; padding-left: 1.3rem; } li { margin: .2rem 0; }
.accepted { color: var(--accepted); } .rejected { color: var(--rejected); } .failed { color: var(--failed); }
img { max-width: 100%; background: #fff; border: 1px solid var(--line); border-radius: 6px; margin-top: 1rem; }
"""


def pages(summary: RunSummary, gates: GatePolicy | None = None) -> dict[str, bytes]:
    """Return file name -> bytes for every document of a run."""
    picture = plot(summary, gates)
    return {
        "summary.json": document(summary),
        "report.md": markdown(summary, gates).encode(),
        "report.html": html(summary, picture, gates).encode(),
        "pareto.png": picture,
    }


def document(summary: RunSummary) -> bytes:
    """Return the content of a run's `summary.json`."""
    return (summary.model_dump_json(indent=2) + "\n").encode()


def write(summary: RunSummary, gates: GatePolicy, home: Path) -> None:
    """Write every document of a run to the folder `reports/<model>` of the home."""
    folder = home / "reports" / summary.model
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pages(summary, gates).items():
        (folder / name).write_bytes(content)


def write_summary(summary: RunSummary, home: Path) -> None:
    """Replace a run's `summary.json`: the id of its MLflow run is known only after the other documents."""
    (home / "reports" / summary.model / "summary.json").write_bytes(document(summary))


def table(summary: RunSummary) -> list[dict[str, str]]:
    """Return one row per variant for narrow pages: column title -> text, a dash for a missing figure."""
    return [{title: text for title, text in _row(v).items() if title not in _WIDE} for v in summary.variants]


def _row(variant: VariantSummary) -> dict[str, str]:
    return {
        "variant": variant.name + (f" ({', '.join(variant.marks)})" if variant.marks else ""),
        "status": f"{_SIGNS[variant.status]}\N{NO-BREAK SPACE}{variant.status}",
        **{figure.title: figure.shown(getattr(variant, name)) for name, figure in FIGURES.items()},
    }


def _headline(summary: RunSummary) -> str:
    counts = {status: sum(variant.status == status for variant in summary.variants) for status in _SIGNS}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


def _sections(summary: RunSummary, gates: GatePolicy | None) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the sections below the table as (title, [(name, text)]); both documents print them."""
    sections = [
        ("Picks", [(f"best {goal}", f"{name}, {_PICKS.get(goal, goal)}") for goal, name in summary.picks.items()]),
        ("Why not", [(v.name, reason) for v in summary.variants if v.status != "accepted" for reason in _reasons(v)]),
        ("Remarks", [(v.name, reason) for v in summary.variants if v.status == "accepted" for reason in v.reasons]),
        (
            "Better at the same size",
            [(v.name, f"{v.better} is closer to the baseline") for v in summary.variants if v.better],
        ),
        *_generations(summary),
        ("Gates", _limits(gates)),
        ("Channel", _channel(summary)),
        ("Baseline", [_baseline(summary)]),
        ("Noise floors", _noise(summary)),
        ("Measured on", _machine(summary)),
        ("Source", [("asked for", summary.source), ("digest", summary.source_digest)]),
    ]
    sections[-1][1].extend(("note", note) for note in summary.source_notes)
    return [(title, lines) for title, lines in sections if lines]


def _generations(summary: RunSummary) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return a section per prompt, with the greedy continuations of the baseline and of each variant."""
    texts = {summary.baseline.name: summary.baseline.generations}
    texts |= {variant.name: variant.generations for variant in summary.variants if variant.generations}
    return [
        (f"After {said.prompt!r}", [(name, found[index].text) for name, found in texts.items()])
        for index, said in enumerate(summary.baseline.generations)
    ]


def _limits(gates: GatePolicy | None) -> list[tuple[str, str]]:
    """Return the limits of the gate, without the huge defaults, which do not bind."""
    limits: dict[str, float] = gates.model_dump() if gates else {}
    return [(name, f"{limit:g}") for name, limit in limits.items() if limit < 1e6]


def _channel(summary: RunSummary) -> list[tuple[str, str]]:
    moved = f"at move {summary.channel_seq}" if summary.channel_seq else "not moved: nothing was published"
    return [(summary.channel, moved)] if summary.channel else []


def _reasons(variant: VariantSummary) -> Sequence[str]:
    return variant.reasons or (f"{variant.status}; no cause was recorded",)


def _baseline(summary: RunSummary) -> tuple[str, str]:
    base = summary.baseline
    text = (
        f"{base.size_bytes / _MB:.1f} MB, {base.bits_per_weight:.2f} bits/weight, perplexity {base.perplexity:.2f} over"
        f" {base.scored_tokens} tokens, decode {base.decode_tokens_per_s:.1f} tok/s, prefill"
        f" {base.prefill_tokens_per_s:.0f} tok/s, peak {base.peak_memory_bytes / _MB:.0f} MB;"
        f" its weights are stored at this size, its logits are computed in {base.compute_dtype}"
    )
    return base.name, text


def _machine(summary: RunSummary) -> list[tuple[str, str]]:
    base = summary.baseline
    kernels = [(v.name, _measured(v, base.hardware, base.threads)) for v in summary.variants if v.kernel]
    return [("hardware", f"{base.hardware}, {base.threads} threads"), (base.name, base.kernel), *kernels]


def _measured(variant: VariantSummary, hardware: str, threads: int) -> str:
    """Return how a variant's speed was measured, and on which machine if it is not the baseline's machine."""
    said = [variant.kernel, variant.compute_dtype, f"median of {variant.repeats}"]
    if variant.decode_range and variant.decode_tokens_per_s:
        said.append(f"decode {variant.decode_range[0]:.1f} to {variant.decode_range[1]:.1f} tok/s")
    if variant.others:
        said.append(f"other work had {variant.others:.0%} of the machine")
    if variant.hardware and (variant.hardware, variant.threads) != (hardware, threads):
        said.append(f"on {variant.hardware}, {variant.threads} threads")
    return ", ".join(part for part in said if part)


def _noise(summary: RunSummary) -> list[tuple[str, str]]:
    lines = [(runtime, f"mean KL {kl:.2g}") for runtime, kl in sorted(summary.noise_floor.items())]
    meaning = (
        "the mean KL that a runtime shows with the unquantized weights: it comes from its arithmetic alone. A variant"
        " marked 'within noise' is no farther from the baseline than that, so its rank among such variants says nothing"
    )
    return [*lines, ("meaning", meaning)] if lines else []


def markdown(summary: RunSummary, gates: GatePolicy | None = None) -> str:
    """Return the report in GitHub's Markdown."""
    rows = table(summary)
    titles = list(rows[0]) if rows else []
    lines = [f"# {plain(summary.model)}", "", _headline(summary), ""]
    if rows:
        lines += [cells(titles), "|:--|:--" + "|--:" * (len(titles) - 2) + "|"]
        lines += [cells(list(row.values())) for row in rows]
    for title, entries in _sections(summary, gates):
        lines += ["", f"## {title}", "", *(f"- **{plain(what)}**: {plain(text)}" for what, text in entries)]
    return "\n".join(lines) + "\n"


def html(summary: RunSummary, plot_png: bytes | None, gates: GatePolicy | None = None) -> str:
    """Return the report as one self-contained HTML page."""
    model = markup.escape(summary.model)
    first = _row(summary.variants[0]) if summary.variants else {}
    titles = "".join(f"<th>{markup.escape(title)}</th>" for title in first)
    body = "".join(_html_row(variant) for variant in summary.variants)
    picture = base64.b64encode(plot_png or b"").decode()
    alt = "Size on disk against mean KL divergence"
    image = f'<img alt="{alt}" width="1180" src="data:image/png;base64,{picture}">' if plot_png else ""
    sections = "".join(
        f"<h2>{markup.escape(title)}</h2><ul>{''.join(map(_html_entry, lines))}</ul>"
        for title, lines in _sections(summary, gates)
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{model}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{model}</h1>"
        f'<p class="soft">{markup.escape(_headline(summary))}</p>{image}<h2>Variants</h2>'
        f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'
        f"{sections}</body></html>\n"
    )


def _html_row(variant: VariantSummary) -> str:
    row = {**_row(variant), "variant": variant.name}
    marks = f' <span class="soft">{markup.escape(", ".join(variant.marks))}</span>' if variant.marks else ""
    name, status, *figures = map(markup.escape, row.values())
    cells = "".join(f"<td>{figure}</td>" for figure in figures)
    return f'<tr><td>{name}{marks}</td><td class="{variant.status}">{status}</td>{cells}</tr>'


def _html_entry(entry: tuple[str, str]) -> str:
    what, text = map(markup.escape, entry)
    return f"<li><b>{what}</b>: {text}</li>"
