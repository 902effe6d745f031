"""The report: every variant with its reasons, hostile text escaped, a picture for any figures."""

import pytest

from quantmill.recipe.recipe import GatePolicy
from quantmill.records.report import RunSummary, VariantSummary
from quantmill.records.selection import better_choice, pareto_front, picks
from tasks.report import report
from tasks.report.markdown import plain
from tests import samples


def row(
    name: str, size: int | None = 100, kl: float | None = 0.1, speed: float = 10.0, **more: object
) -> VariantSummary:
    fields = {"name": name, "method": "gguf", "bits": 4, "format": "gguf", "status": "accepted", "cached": False}
    figures = {"size_bytes": size, "mean_kl": kl, "decode_tokens_per_s": speed}
    return VariantSummary.model_validate(fields | figures | more)


def summary(*rows: VariantSummary) -> RunSummary:
    return RunSummary(
        model="m",
        source="s",
        source_digest="0" * 64,
        source_notes=("weights went through Q4_1 once",),
        baseline=samples.BASELINE,
        timings={},
        variants=rows,
        noise_floor={"llama_cpp": 1e-7},
        pareto=pareto_front(rows),
        picks=picks(rows),
    )


MIXED = (
    row("small", 100, 0.3),
    row("middle", 200, 0.1, speed=30),
    row("beaten", 250, 0.2),
    row("twin-of-middle", 200, 0.1),
    row("on-the-grid", 50, 0.001, marks=["source-grid"]),
    row("rejected", 60, 0.9, status="rejected", reasons=["mean KL 0.9 exceeds 0.2"]),
    row("failed", None, None, status="failed", reasons=["Killed: <b>by</b> | SIGKILL"]),
    row("lossless", 900, 0.0, marks=["within noise"]),
)


def test_pareto_and_picks() -> None:
    made = summary(*MIXED)
    assert made.pareto == ("small", "middle", "lossless")
    assert made.picks == {"quality": "lossless", "size": "small", "speed": "middle"}
    assert picks([MIXED[5], MIXED[6]]) == {}


@pytest.mark.parametrize(
    ("other", "better"),
    [
        (row("other", 102, 0.05), "other"),
        (row("other", 103, 0.05), ""),
        (row("other", 102, 0.051), ""),
        (row("other", 10, 0.0, marks=["source-grid"]), ""),
        (row("other", 10, 0.01, status="rejected"), ""),
        (row("other", 10, None), ""),
        (row("other", None, 0.0), ""),
    ],
)
def test_what_does_better_at_the_same_size(other: VariantSummary, better: str) -> None:
    assert better_choice(row("this", 100, 0.1), [row("this", 100, 0.1), other, row("less", 90, 0.051)]) == better
    closer = row("closer", 102, 0.0001)
    assert better_choice(row("this", 100, 0.1), [other, closer]) == "closer"
    assert better_choice(row("failed", None, None, status="failed"), [other, closer]) == ""


@pytest.mark.parametrize(
    "rows", [MIXED, MIXED[6:7], MIXED[5:6], MIXED[7:], ()], ids=lambda rows: f"{len(rows)} variants"
)
def test_pages(rows: tuple[VariantSummary, ...]) -> None:
    pages = report.pages(summary(*rows), GatePolicy())
    assert set(pages) == {"summary.json", "report.md", "report.html", "pareto.png"}
    assert pages["pareto.png"].startswith(b"\x89PNG")
    assert RunSummary.model_validate_json(pages["summary.json"]) == summary(*rows)
    for page in (pages["report.md"].decode(), pages["report.html"].decode()):
        assert "weights went through Q4_1 once" in page
        assert all(variant.name in page for variant in rows)
        assert "<b>by</b>" not in page.replace("\\<", "<!")


def test_html_escapes() -> None:
    page = report.html(summary(row("x", reasons=["<script>alert(1)</script>"], status="rejected")), None)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_a_narrow_page_s_table_leaves_out_what_the_wide_one_has() -> None:
    made = summary(*MIXED)
    narrow, wide = report.table(made)[0], report.html(made, None)
    assert list(narrow) == [
        "variant",
        "status",
        "MB",
        "perplexity",
        "ratio",
        "mean KL",
        "top-1",
        "decode tok/s",
        "peak MB",
    ]
    assert all(f"<th>{title}</th>" in wide for title in (*narrow, "bits/weight", "p99 KL", "prefill tok/s"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("gguf-q4_k_m", "gguf-q4_k_m"),
        ('the "__getitem__"', 'the "\\_\\_getitem\\_\\_"'),
        ("_so_ ~~not~~", "\\_so\\_ \\~\\~not\\~\\~"),
        ("✓\xa0accepted \u2028", "✓\xa0accepted"),
        ("a|b\n*c*", "a\\|b \\*c\\*"),
    ],
)
def test_text_of_others_formats_nothing(text: str, shown: str) -> None:
    assert plain(text) == shown
