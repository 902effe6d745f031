"""The step that waits for a person: with `publish.approval` a line stops before it publishes, until somebody resumes it.

The run is suspended: its process ends and its place on a worker is free. Resumed in the dashboard, or through the API, it starts
anew, finds all that was made, and goes on with the answer.
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
    """What the dashboard asks whoever resumes the run."""

    publish: bool = Field(
        default=True,
        title="Publish",
        description="Publish the accepted variants; off: the run ends without.",
        json_schema_extra={"position": 0},
    )
    reason: str = Field(
        default="",
        title="Reason",
        description="Why not, for the report.",
        examples=["waits for the licence review"],
        json_schema_extra={"position": 1},
    )


async def ask(recipe: Recipe, outcomes: Mapping[str, Outcome], verdicts: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """Return the verdicts after a person was asked, where the recipe wants that and there is something to publish."""
    accepted = [name for name, verdict in verdicts.items() if verdict.status == "accepted"]
    if not recipe.publish.approval or not accepted:
        return dict(verdicts)
    answer = await _answer(_question(recipe, accepted, outcomes))
    if answer.publish:
        return dict(verdicts)
    held = Verdict(status="rejected", reasons=(f"held back at the approval: {answer.reason or 'no reason given'}",))
    return {name: held if name in accepted else verdict for name, verdict in verdicts.items()}


async def _answer(question: str) -> Approval:
    """Return what was answered to this question; where nobody has, the run is suspended and this does not return.

    The key is made of the question, so an answer holds for the variants and figures that somebody saw. At a Retry the server forgets
    that it asked, but keeps question and answer, and takes nothing under a name that it has.
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
