"""The tested ways of quantizing, and a bench that makes their artifacts from the tiny model."""

from pathlib import Path
from typing import Any

from flows import jobs
from flows.needs import NEEDS
from quantmill.recipe.recipe_file import parse_recipe
from quantmill.records.artifact import Artifact
from quantmill.records.job import VariantJob
from quantmill.records.report import EvaluationReport
from quantmill.settings import Settings
from quantmill.store.places import open_store
from tasks.evaluate import evaluate
from tasks.quantize import quantize
from tasks.sandbox.sandbox import Sandbox
from tasks.source import download
from tasks.text import calibrate

MIXED = [{"match": "down_proj", "bits": 8}, {"match": r"layers\.1\.self_attn", "bits": 16}]
SPARED = [{"match": "down_proj", "bits": 16}]
QUICK = {"method": "autoround", "iterations": 1}  # the rounding is not what is looked at here

# One entry a way of quantizing: the request, and what its matrices become.
VARIANTS: list[tuple[dict[str, Any], set[str]]] = [
    ({"method": "baseline"}, {"bf16"}),
    ({"method": "bitsandbytes", "type": "int8"}, {"int8"}),
    ({"method": "bitsandbytes", "type": "nf4"}, {"nf4"}),
    ({"method": "bitsandbytes", "type": "fp4", "double_quant": False, "layers": SPARED}, {"fp4"}),
    ({"method": "gptq", "bits": 4, "group_size": 64}, {"gptq"}),
    ({"method": "gptq", "bits": 2, "sym": False, "desc_act": True, "layers": MIXED}, {"gptq"}),
    ({"method": "awq"}, {"awq"}),
    ({"method": "hqq", "bits": 4}, {"hqq"}),
    ({"method": "hqq", "bits": 3, "axis": 0, "group_size": 32, "layers": MIXED}, {"hqq"}),
    (QUICK, {"autoround"}),
    (QUICK | {"bits": 2, "layers": MIXED}, {"autoround"}),
    (QUICK | {"export_format": "auto_awq", "group_size": 128}, {"autoround"}),
    ({"method": "gguf", "type": "Q8_0"}, {"Q8_0"}),
    ({"method": "gguf", "type": "Q4_K_M"}, {"Q4_K", "Q6_K"}),
    ({"method": "gguf", "type": "IQ4_XS", "layers": MIXED}, {"IQ4_XS", "Q8_0", "BF16"}),
]


class Bench:
    """A store, a sandbox and the jobs of all variants on the tiny model."""

    def __init__(
        self, home: Path, model: Path, requests: list[dict[str, Any]] | None = None, device: str = "cpu"
    ) -> None:
        settings = Settings(home=home)
        self.store, self.sandbox = open_store(settings.store_uri), Sandbox(settings)
        self.recipe = recipe = parse_recipe(
            {
                "model": {"source": str(model)},
                "calibration": {"samples": 2, "sequence_length": 64},
                "evaluation": {"samples": 2, "sequence_length": 129},
                "variants": requests or [request for request, _ in VARIANTS],
                "device": device,
            }
        )
        origin = download.inspect_source(recipe.model, home)
        snapshot = download.fetch_snapshot(origin, self.store, self.sandbox)
        checkpoints = download.inspect_checkpoints(recipe, origin, home)
        tokens = calibrate.build_token_sets(recipe, snapshot, self.store, self.sandbox, True)
        plan = jobs.make_plan(recipe, snapshot, *tokens, settings.engine_threads, checkpoints)
        for ref in plan.needs:
            NEEDS[ref.stage].make(snapshot, ref.key, plan.model_name, self.store, self.sandbox)
        self.baseline = plan.baseline
        self.jobs = dict(zip([job.name for job in plan.variants], plan.variants, strict=True))

    def make(self, job: VariantJob) -> Artifact:
        return quantize.make_artifact(job, self.store, self.sandbox)

    def measure(self, job: VariantJob) -> EvaluationReport:
        """Measure the baseline, for its trace, and then the job's artifact."""
        evaluate.measure_artifact(self.baseline, self.make(self.baseline), self.store, self.sandbox)
        return evaluate.measure_artifact(job, self.make(job), self.store, self.sandbox)

    def forget(self, job: VariantJob) -> None:
        Path(self.store.uri, "stages", "artifact", f"{job.artifact_key}.json").unlink()
