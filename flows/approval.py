"""Waits for a person: with `publish.approval` a run is suspended before it publishes.

The process of a suspended run ends and frees its slot on the worker. When a person resumes the run, in the dashboard or through
the API, the run starts again, finds all earlier results, and goes on with the answer.
"""

from collections.abc import Mapping
from hashlib import sha256

from prefect.client.schemas.objects import FlowRunInput
from prefect.flow_runs import asuspend_flow_run
from prefect.input import RunInput, adelete_flow_run_input, afilter_flow_run_input, keyset_from_base_key
from pydantic import Field

from quantmill.recipe.recipe import Recipe
from quantmill.records.report import Outcome, Verdict


class Approval(RunInput):
    """The form that the dashboard shows to the person who resumes the run."""

    publish: bool = Field(
        default=True,
        title="Publish",
        description="Publish the accepted variants; off: the run ends without publishing.",
        json_schema_extra={"position": 0},
    )
    reason: str = Field(
        default="",
        title="Reason",
        description="Why the variants are not published; the report shows the reason.",
        examples=["waits for the licence review"],
        json_schema_extra={"position": 1},
    )


async def ask(recipe: Recipe, outcomes: Mapping[str, Outcome], verdicts: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """Return the verdicts after a person's answer, if the recipe wants an approval.

    Without accepted variants nobody is asked.
    """
    accepted = [name for name, verdict in verdicts.items() if verdict.status == "accepted"]
    if not recipe.publish.approval or not accepted:
        return dict(verdicts)
    answer = await _answer(_question(recipe, accepted, outcomes))
    if answer.publish:
        return dict(verdicts)
    held = Verdict(status="rejected", reasons=(f"held back at the approval: {answer.reason or 'no reason given'}",))
    return {name: held if name in accepted else verdict for name, verdict in verdicts.items()}


async def _answer(question: str) -> Approval:
    """Return the answer to this question; without an answer suspend the run and do not return.

    The key is a hash of the question, so an answer holds only for the variants and figures that the person saw. After a Retry
    Prefect forgets the suspension but keeps question and answer, and rejects a second question under that key.
    """
    key = f"publish-{sha256(question.encode()).hexdigest()[:16]}"
    base = f"suspended-{key}"
    found: list[FlowRunInput] = await afilter_flow_run_input(base, limit=3)
    kept = {each.key: each for each in found}
    if answer := kept.get(keyset_from_base_key(base)["response"]):
        return Approval.load_from_flow_run_input(answer)
    for name in kept:
        await adelete_flow_run_input(name)
    asked = Approval.with_initial_data(description=question)
    return await asuspend_flow_run(wait_for_input=asked, key=key, timeout=None)


def _question(recipe: Recipe, accepted: list[str], outcomes: Mapping[str, Outcome]) -> str:
    lines = [
        f"Publish these variants as **{recipe.model_name}**?",
        "",
        "| variant | MB | perplexity | mean KL |",
        "|---|---|---|---|",
    ]
    for name in accepted:
        artifact, report = outcomes[name].artifact, outcomes[name].report
        if artifact and report:
            quality = report.quality
            lines.append(
                f"| {name} | {artifact.size_bytes / 1e6:.1f} | {quality.perplexity:.3f} | {quality.mean_kl:.4f} |"
            )
    return "\n".join(lines)
