"""The choice among variants: rows of figures from summaries and manifests, Pareto front, picks."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field

from quantmill.errors import NotFound, VerificationError
from quantmill.recipe.methods import METHODS
from quantmill.recipe.programs import Facts, Loads, facts_of, programs_for
from quantmill.records.manifest import Manifest
from quantmill.records.report import VariantSummary

SOURCE_GRID = "source-grid"
BUSY = "busy"
MARKS = (
    SOURCE_GRID, "within noise", "fallback", "out of memory", "starved experts", "scored in", "reference in", "worse than counting",
    "repeats one token", "noise floor", "right up to", "not checked past", BUSY, "too few tokens",
    "ids of runs differ", "transformers 4 misses",
)  # fmt: skip
"""Allowed values of the `mark` condition: words from the marks that a run sets (tasks/marks.py)."""


def perplexity_ratio(perplexity: float, baseline: float) -> float:
    """Return a variant's perplexity over the baseline's: the ratio of gates, tables, manifests and cards."""
    return perplexity / baseline


class Figure(NamedTuple):
    """How a measured figure is shown: in reports, on the screen, on cards."""

    title: str
    form: str
    unit: float = 1.0

    def shown(self, value: float | None) -> str:
        """Return the figure as text; a dash for None. A small KL is shown in scientific notation, never as 0."""
        if value is None:
            return "-"
        value = value / self.unit
        if "KL" in self.title and 0 < abs(value) < _SMALL:
            return format(value, ".1e")
        return format(value, ".0f" if "KL" in self.title and _LARGE <= abs(value) < _HUGE else self.form)


_SMALL, _LARGE, _HUGE = 5e-4, 100, 1e6
FIGURES = {
    "size_bytes": Figure("MB", ".1f", 1e6),
    "bits_per_weight": Figure("bits/weight", ".2f"),
    "perplexity": Figure("perplexity", ".3f"),
    "perplexity_ratio": Figure("ratio", ".3f"),
    "mean_kl": Figure("mean KL", ".4f"),
    "p99_kl": Figure("p99 KL", ".3f"),
    "top1_agreement": Figure("top-1", ".1%"),
    "decode_tokens_per_s": Figure("decode tok/s", ".1f"),
    "prefill_tokens_per_s": Figure("prefill tok/s", ".0f"),
    "peak_memory_bytes": Figure("peak MB", ".0f", 1e6),
}
"""Field of a variant's row -> how its figure is shown."""
Goal = Literal["quality", "size", "speed"]
GOALS: tuple[Goal, ...] = get_args(Goal)


class Candidate(BaseModel):
    """A variant to choose from; a figure that was not recorded is None."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="The variant's name.")
    method: str = Field(description="The method that made it.")
    format: str = Field(description="`safetensors` or `gguf`.")
    runtimes: tuple[str, ...] = Field(default=(), description="Programs that were seen to load variants of this kind.")
    marks: tuple[str, ...] = Field(default=(), description="What qualifies its figures.")
    bits: int = Field(description="Nominal bit width.")
    bits_per_weight: float | None = Field(default=None, description="Bits of the weight files over the weights.")
    size_bytes: int = Field(description="Bytes of the whole folder.")
    peak_memory_bytes: int | None = Field(
        default=None, description="Peak memory of the GPUs if it ran on GPUs, else of the process."
    )
    hardware: str = Field(default="", description="The processor or GPU that speed was measured on.")
    threads: int = Field(default=0, description="Processor threads of the speed measurement.")
    decode_tokens_per_s: float | None = Field(default=None, description="Generated tokens per second, one sequence.")
    perplexity: float | None = Field(default=None, description="Perplexity on the evaluation text.")
    perplexity_ratio: float | None = Field(default=None, description="Perplexity over the baseline's.")
    mean_kl: float = Field(description="Mean KL(baseline || variant), nats.")
    p99_kl: float | None = Field(default=None, description="99th percentile of the KL per position.")
    top1_agreement: float | None = Field(default=None, description="Share of positions with the same first token.")


def of_summary(variant: VariantSummary) -> Candidate | None:
    """Return the row of a run's variant, or None if the variant was not measured."""
    if not variant.size_bytes or variant.mean_kl is None:
        return None
    figures = variant.model_dump(include=set(Candidate.model_fields))
    return Candidate(**figures)


def of_manifest(manifest: Manifest) -> Candidate:
    """Return the row of a published version.

    Raises:
        VerificationError: the manifest's `variant` has a `bits` that is not a number.
    """
    evaluation = manifest.evaluation
    quality, speed = evaluation.metrics, evaluation.speed
    try:
        bits = int(manifest.variant.get("bits", 0))
        found = facts(manifest)
    except (TypeError, ValueError, OverflowError) as error:
        raise VerificationError(f"manifest {manifest.digest}: variant: {' '.join(str(error).split())}") from error
    return Candidate(
        name=manifest.name.rpartition("/")[2],
        method=str(manifest.variant.get("method", "")),
        format=str(manifest.variant.get("format", "")),
        runtimes=programs_for(rules(manifest), found),
        marks=evaluation.marks,
        bits=bits,
        bits_per_weight=evaluation.bits_per_weight,
        size_bytes=sum(file.size_bytes for file in manifest.files),
        peak_memory_bytes=speed.peak_memory_bytes,
        hardware=speed.hardware,
        threads=speed.threads,
        decode_tokens_per_s=speed.decode_tokens_per_s,
        perplexity=quality.perplexity,
        perplexity_ratio=evaluation.perplexity_ratio,
        mean_kl=quality.mean_kl,
        p99_kl=quality.p99_kl,
        top1_agreement=quality.top1_agreement,
    )


def packer(manifest: Manifest) -> str:
    """Return the method that packed a version's weights; never `imported`.

    For an imported checkpoint it is the method that its config states.
    """
    packing = manifest.variant.get("packing")
    return str((packing if isinstance(packing, dict) else manifest.variant).get("method", ""))


def rules(manifest: Manifest) -> tuple[Loads, ...]:
    """Return the rules that say which programs load a version: those of the method that packed it."""
    row = METHODS.get(packer(manifest))
    return row.programs if row else ()


def facts(manifest: Manifest) -> Facts:
    """Return the facts of a version that decide which programs load it."""
    return facts_of(manifest.variant, library(manifest))


def library(manifest: Manifest) -> str:
    """Return the library that loads a version: the library that measured it, else its method's library."""
    row = METHODS.get(packer(manifest))
    return manifest.evaluation.runtime or (row.runtime if row else "transformers")


def best(candidates: Iterable[Candidate], goal: Goal) -> Candidate:
    """Return the best candidate for a goal; a second figure, then the name, breaks ties."""
    if goal == "quality":
        return min(candidates, key=lambda c: (c.mean_kl, c.size_bytes, c.name))
    if goal == "size":
        return min(candidates, key=lambda c: (c.size_bytes, c.mean_kl, c.name))
    return min(candidates, key=lambda c: (-(c.decode_tokens_per_s or 0.0), c.mean_kl, c.name))


def rivals_in_speed(candidates: Iterable[Candidate], hardware: Iterable[str] = ()) -> list[Candidate]:
    """Return the candidates with comparable speeds: measured on quiet machines of one class.

    Args:
        candidates: all candidates.
        hardware: names of processors or GPUs, or parts of names; the first known name decides. Empty: the class of most
            candidates.

    Raises:
        NotFound: no speed was measured on a quiet machine, or the names match no class or several; the message lists the classes.
    """
    quiet = [row for row in candidates if BUSY not in row.marks and row.decode_tokens_per_s is not None]
    if not quiet:
        raise NotFound(
            "no speed was measured on a quiet machine; `quantmill compress RECIPE --measure-again` measures it"
        )
    classes: dict[tuple[str, int], list[Candidate]] = {}
    for row in quiet:
        classes.setdefault((row.hardware, row.threads), []).append(row)
    wanted = list(hardware)
    if not wanted:
        return classes[min(classes, key=lambda found: (-len(classes[found]), found))]
    for name in wanted:
        named = [found for found in classes if name.casefold() in found[0].casefold()]
        if len(named) == 1:
            return classes[named[0]]
        if named:
            break
    known = "; ".join(f"{name}, {threads} threads" for name, threads in sorted(classes))
    raise NotFound(
        f"--hardware: speeds compare within one class of machine, {wanted[0]!r} names none or several of: {known}"
    )


def comparable(variants: Iterable[VariantSummary]) -> list[Candidate]:
    """Return the accepted variants with comparable figures: all but those on the source's own grid."""
    standing = (v for v in variants if v.status == "accepted" and SOURCE_GRID not in v.marks)
    return [row for v in standing if (row := of_summary(v))]


def better_choice(variant: VariantSummary, variants: Iterable[VariantSummary]) -> str:
    """Return the name of a clearly better accepted variant of about the same size; empty: there is none.

    The better variant is at most 2 % larger and has at most half the mean KL.
    """
    if (row := of_summary(variant)) is None:
        return ""
    most_bytes, most_kl = 1.02 * row.size_bytes, 0.5 * row.mean_kl
    better = [other for other in comparable(variants) if other.size_bytes <= most_bytes and other.mean_kl <= most_kl]
    return best(better, "quality").name if better else ""


def pareto_front(variants: Iterable[VariantSummary]) -> tuple[str, ...]:
    """Return the Pareto front of the accepted variants in bytes and mean KL, by ascending size."""
    front: list[str] = []
    least = float("inf")
    for row in sorted(comparable(variants), key=lambda row: (row.size_bytes, row.mean_kl, row.name)):
        if row.mean_kl < least:
            front.append(row.name)
            least = row.mean_kl
    return tuple(front)


def picks(variants: Iterable[VariantSummary]) -> dict[str, str]:
    """Return goal -> the best accepted variant; speeds compare on quiet machines of one class."""
    known = comparable(variants)
    made: dict[str, str] = {goal: best(known, goal).name for goal in GOALS if goal != "speed"} if known else {}
    with suppress(NotFound):  # all machines were busy: there is no fastest variant
        made["speed"] = best(rivals_in_speed(known), "speed").name
    return made
