"""Judges conversions to GGUF by llama.cpp's divergence on the unquantized weights."""

from collections.abc import Callable, Mapping
from typing import Any

from flows.jobs import Plan
from quantmill.errors import ConversionMismatch
from quantmill.records.job import VariantJob
from quantmill.records.report import Outcome
from quantmill.store.store import Store
from tasks import arithmetic, support
from tasks.convert import LongText, find_long_text
from tasks.model import config_forms

_NOTABLE_KL, _MOST_KL = 1e-5, 1e-4
_TIMES_ITS_FLOOR = 5.0
_RUNTIME = "llama_cpp"
STAGE = "conversion"
Judge = Callable[[Mapping[str, Outcome]], dict[str, Outcome]]


def limits(compute_dtype: str) -> tuple[float, float]:
    """Return the limits on the mean KL of the unquantized weights in llama.cpp: for a mark, for failure.

    The limits depend on the reference's arithmetic.
    """
    if own := arithmetic.floor(compute_dtype):
        return _TIMES_ITS_FLOOR * own, _TIMES_ITS_FLOOR * own
    return _NOTABLE_KL, _MOST_KL


def tokens_to_check(plan: Plan, config: Mapping[str, Any]) -> int:
    """Return how many tokens the text to check the conversion has; 0: the evaluation windows suffice."""
    wanted = support.longer_text(_name(config), dict(config)) if plan.needed(STAGE) else 0
    return wanted if wanted > plan.baseline.evaluation.request.sequence_length else 0


def recall_judged(plan: Plan, outcomes: Mapping[str, Outcome], store: Store) -> dict[str, Outcome] | None:
    """Return the judged outcomes of finished work, or None if the longer text has no score yet."""
    baseline = outcomes[plan.baseline.name]
    if not plan.needed(STAGE) or baseline.artifact is None:
        return dict(outcomes)
    config = config_forms.read_stored(baseline.artifact, store)
    tokens = tokens_to_check(plan, config)
    checked = find_long_text(plan.needed(STAGE), tokens, store) if tokens else None
    return None if tokens and checked is None else judge(plan, baseline, config, checked, outcomes)


def judge(
    plan: Plan,
    baseline: Outcome,
    config: Mapping[str, Any],
    checked: LongText | None,
    outcomes: Mapping[str, Outcome],
) -> dict[str, Outcome]:
    """Return the outcomes; GGUF variants are failed or marked where llama.cpp computes something else.

    Args:
        plan: the run's jobs.
        baseline: the measured reference.
        config: the model's config.json.
        checked: the score of the longer text, if there is one.
        outcomes: the outcomes of all jobs, or an empty mapping before the variants are built.
    """
    judged = dict(outcomes)
    if baseline.report is None:
        return judged
    notable, most = limits(baseline.report.quality.compute_dtype)
    length = plan.baseline.evaluation.request.sequence_length
    marks = list[str]()
    end, key = support.right_up_to(_name(config), dict(config))
    if end:
        marks.append(f"right up to {end} tokens ({key})")
    own = list[str]()
    for kl, where in _divergences(plan, outcomes, checked, length):
        if not kl <= most:
            return judged | _failed(plan, outcomes, kl, most, where, support.likely_cause(_name(config), dict(config)))
        if kl > notable:
            own.append(f"noise floor {kl:.1e} over {where}")
    if checked and checked.why:
        own.append(f"not checked past {length} tokens")
    for job in plan.variants:
        if job.runtime == _RUNTIME and job.name in outcomes and (marks or own):
            said = (*outcomes[job.name].marks, *marks, *(own if job.needed(STAGE) else ()))
            judged[job.name] = outcomes[job.name].model_copy(update={"marks": tuple(dict.fromkeys(said))})
    return judged


def _divergences(
    plan: Plan, outcomes: Mapping[str, Outcome], checked: LongText | None, length: int
) -> list[tuple[float, str]]:
    """Return the mean KLs of the unquantized weights in llama.cpp, each with a name of its text."""
    measured = outcomes.get(plan.floors[_RUNTIME].name) if _RUNTIME in plan.floors else None
    floor = measured.report if measured else None
    found = [(abs(floor.quality.mean_kl), f"windows of {length} tokens")] if floor else []
    if checked and checked.mean_kl is not None:
        found.append((abs(checked.mean_kl), f"a text of {checked.tokens} tokens"))
    return found


def _failed(
    plan: Plan, outcomes: Mapping[str, Outcome], kl: float, most: float, where: str, cause: str
) -> dict[str, Outcome]:
    message = (
        f"llama.cpp computes something else than transformers: with the same weights the mean KL over {where} is {kl:.2g},"
        f" allowed is {most:g}; likely cause, in config.json: {cause}"
    )
    failed: list[VariantJob] = [job for job in plan.others if job.needed(STAGE)]
    update = {"report": None, "error": ConversionMismatch.__name__, "message": message}
    return {job.name: outcomes.get(job.name, Outcome(name=job.name)).model_copy(update=update) for job in failed}


def _name(config: Mapping[str, Any]) -> str:
    """Return the model's class in transformers.

    The origin's architecture will not do: for a GGUF source it has llama.cpp's name.
    """
    return str((config.get("architectures") or [""])[0])
