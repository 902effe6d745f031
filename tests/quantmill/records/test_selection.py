"""Where-expressions and picks, over the figures of a run and of published manifests."""

import time
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from quantmill.client import where
from quantmill.client.where import COMPARISONS, FIELDS, parse
from quantmill.errors import NotFound, RequestError, VerificationError
from quantmill.recipe.methods import METHODS, PROGRAMS
from quantmill.records.manifest import Manifest
from quantmill.records.selection import BUSY, FIGURES, Candidate, best, of_manifest, picks, rivals_in_speed
from tests.samples import manifest

GGUF: dict[str, Any] = {
    "name": "gguf-q4_k_m", "method": "gguf", "format": "gguf", "runtimes": ("llama.cpp",), "bits": 4, "size_bytes": 109 * 10**6,
    "peak_memory_bytes": 220 * 10**6, "decode_tokens_per_s": 129.0, "mean_kl": 0.06, "perplexity_ratio": 1.078,
}  # fmt: skip
ROWS = [
    Candidate(**GGUF, marks=("source-grid",)),
    Candidate(**GGUF | {"name": "gguf-q8_0", "bits": 8, "size_bytes": 148 * 10**6, "mean_kl": 0.005, "decode_tokens_per_s": 109.0}),
    Candidate(**GGUF | {"name": "gptq-4bit-g64", "method": "gptq", "format": "safetensors", "runtimes": ("transformers", "gptqmodel"),
                        "mean_kl": 0.18, "perplexity_ratio": None, "peak_memory_bytes": 1052 * 10**6, "decode_tokens_per_s": 39.6,
                        "marks": ("42% fallback",)}),
]  # fmt: skip


def chosen(expression: str) -> list[str]:
    terms = parse(expression)
    return [row.name for row in ROWS if all(term.holds(row) for term in terms)]


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("", ["gguf-q4_k_m", "gguf-q8_0", "gptq-4bit-g64"]),
        ("format=gguf", ["gguf-q4_k_m", "gguf-q8_0"]),
        ("format!=gguf", ["gptq-4bit-g64"]),
        ("bits<=4,size<120MB, kl<0.1", ["gguf-q4_k_m"]),
        ("size<=109MB", ["gguf-q4_k_m", "gptq-4bit-g64"]),
        ("size<109000000", []),
        ("size<104MiB", ["gguf-q4_k_m", "gptq-4bit-g64"]),
        ("size < 0.1 gb", []),
        ("memory<12GB,runtime=llama.cpp", ["gguf-q4_k_m", "gguf-q8_0"]),
        ("memory>1000000kB", ["gptq-4bit-g64"]),
        ("runtime=llama_cpp", ["gguf-q4_k_m", "gguf-q8_0"]),
        ("runtime=vLLM", []),  # it was seen with the baseline alone
        ("runtime!=vllm", ["gguf-q4_k_m", "gguf-q8_0", "gptq-4bit-g64"]),
        ("runtime=gptqmodel", ["gptq-4bit-g64"]),
        ("runtime=ollama", []),
        ("mark=source-grid", ["gguf-q4_k_m"]),
        ("mark!=source-grid", ["gguf-q8_0", "gptq-4bit-g64"]),
        ("mark=fallback", ["gptq-4bit-g64"]),
        ("mark!=within noise,mark!=fallback,mark!=source-grid", ["gguf-q8_0"]),
        ("method=gptq", ["gptq-4bit-g64"]),
        ("name=gguf-q8_0", ["gguf-q8_0"]),
        ("tokens_per_s>100", ["gguf-q4_k_m", "gguf-q8_0"]),
        ("perplexity_ratio<=1.2", ["gguf-q4_k_m", "gguf-q8_0"]),
        ("perplexity_ratio>0,bits!=8", ["gguf-q4_k_m"]),
        ("kl>=5e-3,kl<6e-2", ["gguf-q8_0"]),
    ],
)
def test_where(expression: str, names: list[str]) -> None:
    assert chosen(expression) == names


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("colour=red", "colour: no such field; fields: name, method, format, runtime, mark, bits"),
        ("size<12 parsecs", "size: '12 parsecs': must be a number with B, kB, MB, GB, KiB, MiB, GiB or no unit"),
        ("kl<1MB", "kl: '1MB': must be a number"),
        ("kl<x", "kl: 'x': must be a number"),
        ("kl<1e999", "must be a number"),
        ("kl<nan", "must be a number"),
        ("size<1e308GB", "must be a number"),
        ("mark=good", "mark: 'good': allowed are source-grid, within noise, fallback, out of memory, starved experts"),
        ("mark>source-grid", "mark takes = and != only"),
        ("bits<=-1", "must be a number"),
        ("bits<=٤", "must be a number"),
        ("format<gguf", "format<'gguf': format takes = and != only"),
        ("runtime=abacus", "'abacus': allowed are transformers, vllm, gptqmodel, hqq, llama.cpp, ollama, lm studio"),
        ("bits", "'bits': write FIELD, one of = != < <= > >=, and a value"),
        ("bits=4,", "'': write FIELD"),
        ("bits==4", "'bits==4': write FIELD"),
        ("bits=<4", "'bits=<4': write FIELD"),
        ("kl<" + "1" * 3000, "3003 characters; at most 2000"),
    ],
)
def test_malformed(expression: str, words: str) -> None:
    with pytest.raises(RequestError) as raised:
        parse(expression)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


_PIECES = st.sampled_from(
    [*FIELDS, *COMPARISONS, "gguf", "12GB", "0.1", "1e9", ",", " ", "", "=", "\n", "\0", "é", "9" * 40, "e", "."]
)
_WRITTEN = st.one_of(st.text(max_size=80), st.lists(_PIECES, max_size=12).map("".join))


@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(_WRITTEN)
@example("size<" + "9" * 1990)
@example(("a" * 999 + " ") * 2)
@example("kl<" + " " * 1990)
def test_19_any_string_is_an_expression_or_one_line_of_error(expression: str) -> None:
    """Each of 10,000 strings, most of them malformed, gives conditions or RequestError within a second.

    A string gets three tries: this process may collect the garbage of all that other tests imported.
    """
    for _ in range(3):
        began = time.process_time()
        try:
            terms = parse(expression)
        except RequestError as error:
            assert "\n" not in str(error)
        else:
            assert bool(terms) == bool(expression.strip())
            for term in terms:
                term.holds(ROWS[0])
        if time.process_time() - began < 1:
            return
    pytest.fail(f"{expression!r} takes over a second")


def test_best() -> None:
    assert best(ROWS, "quality").name == "gguf-q8_0"
    assert best(ROWS, "size").name == "gguf-q4_k_m", "of two of a size the one that is closer to the baseline"
    assert best(ROWS, "speed").name == "gguf-q4_k_m"


def test_speeds_compare_on_quiet_machines_of_one_class() -> None:
    def row(name: str, hardware: str, threads: int = 2, *marks: str) -> Candidate:
        return Candidate(**GGUF | {"name": name, "hardware": hardware, "threads": threads, "marks": marks})

    rows = [row("a", "EPYC (2 cores)"), row("b", "EPYC (2 cores)"), row("c", "H100"), row("d", "H100", 2, BUSY), row("e", "Xeon", 4),
            row("f", "Xeon", 8), row("g", "Arm", 2, BUSY)]  # fmt: skip
    for hardware, names in (((), "ab"), (("h100",), "c"), (("T4", "EPYC"), "ab")):
        assert "".join(found.name for found in rivals_in_speed(rows, hardware)) == names
    for asked in ("Arm", "Xeon", "T4"):
        with pytest.raises(
            NotFound, match=rf"'{asked}' .*EPYC \(2 cores\), 2 threads; H100, .*Xeon, 4 threads; Xeon, 8 threads"
        ):
            rivals_in_speed(rows, [asked])
    with pytest.raises(NotFound, match=r"no speed was measured on a quiet machine; .*--measure-again"):
        rivals_in_speed([row("g", "Arm", 2, BUSY)], ["Arm"])


def test_a_run_of_busy_figures_picks_no_fastest() -> None:
    from quantmill.records.report import VariantSummary

    figures = {
        "method": "gguf",
        "bits": 4,
        "format": "gguf",
        "status": "accepted",
        "cached": False,
        "size_bytes": 5,
        "mean_kl": 0.1,
    }
    slow = VariantSummary(name="slow", **figures, decode_tokens_per_s=1.0)  # type: ignore[arg-type]
    fast = VariantSummary(name="fast", **figures, decode_tokens_per_s=9.0, marks=(BUSY,))  # type: ignore[arg-type]
    assert picks([slow, fast])["speed"] == "slow"
    assert set(picks([fast])) == {"quality", "size"}, "MLflow's alias stays where it was"


def test_every_method_is_opened_by_a_program_that_can_be_asked_for() -> None:
    seen = {name: {rule.program for rule in row.programs if rule.is_promise} for name, row in METHODS.items()}
    assert [name for name, programs in seen.items() if not programs] == ["imported"], "it is opened as what it holds"
    assert set.union(*seen.values()) == set(PROGRAMS) - {"ollama", "lm studio"}
    assert [name for name, programs in seen.items() if "vllm" in programs] == ["baseline"]


def test_a_manifest_s_figures() -> None:
    made = manifest((), name="m/gguf-q8_0")
    row = of_manifest(made)
    assert (row.name, row.method, row.mean_kl, row.perplexity_ratio) == ("gguf-q8_0", "gguf", 0.05, None)
    told = made.model_copy(update={"evaluation": made.evaluation.model_copy(update={"perplexity_ratio": 1.1})})
    assert of_manifest(told).perplexity_ratio == 1.1
    marked = made.model_copy(update={"evaluation": made.evaluation.model_copy(update={"marks": ("source-grid",)})})
    assert of_manifest(marked).marks == ("source-grid",)
    taken = {"method": "imported", "bits": 4, "format": "safetensors", "packing": {"method": "gptq", "bits": 4}}
    assert of_manifest(made.model_copy(update={"variant": taken})).runtimes == ("transformers", "gptqmodel")
    assert set(where.NUMBERS.values()) | set(where.BYTES.values()) <= set(Candidate.model_fields)


@pytest.mark.parametrize("bits", ["4bit", None, float("inf")])
@pytest.mark.parametrize("packed", [False, True])
def test_bits_that_are_no_number_are_an_error_that_names_the_manifest(bits: Any, packed: bool) -> None:
    made = manifest((), name="m/v")
    said = {"method": "imported", "bits": 4, "packing": {"method": "gptq", "bits": bits}} if packed else {"bits": bits}
    with pytest.raises(VerificationError, match=r"^manifest [0-9a-f]{64}: variant: "):
        of_manifest(made.model_copy(update={"variant": said}))


def test_a_manifest_of_before_keeps_its_digest() -> None:
    """What was not recorded then is left out of the canonical JSON, so that published digests stay true."""
    made = manifest((), name="m/v")
    held = made.model_dump(mode="json")
    assert not {"perplexity_ratio", "runtime"} & set(held["evaluation"])
    assert Manifest.model_validate(held).digest == made.digest


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("mean_kl", 0.12345, "0.1235"), ("mean_kl", 2e-8, "2.0e-08"), ("mean_kl", 123.4, "123"), ("mean_kl", 0.0, "0.0000"),
        ("mean_kl", None, "-"),
        ("size_bytes", 117_512_345, "117.5"), ("top1_agreement", 0.925, "92.5%"), ("perplexity", 18.9388, "18.939"),
    ],
)  # fmt: skip
def test_a_figure_is_shown_alike_everywhere(name: str, value: float | None, text: str) -> None:
    assert FIGURES[name].shown(value) == text
