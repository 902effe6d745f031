"""Compares engines in fp32 and in bf16 on the demo's model: `python -m benchmarks.arithmetics`.

Each variant is quantized from the same snapshot and calibration windows, in each arithmetic of its method, and scored on the
demo's windows in fp32. AWQ is made in bf16 only: GPTQModel cannot pack an fp32 model. Each variant takes minutes.
"""

import argparse
import tempfile
from pathlib import Path

from flows import jobs
from quantmill.files import keys
from quantmill.machine.classes import processor as processor_name
from quantmill.recipe.recipe import Recipe
from quantmill.recipe.recipe_file import parse_recipe, read_recipe
from quantmill.records.job import VariantJob
from quantmill.settings import load_settings
from quantmill.store.places import open_store
from tasks import processor
from tasks.evaluate import evaluate
from tasks.quantize import quantize
from tasks.sandbox.sandbox import Sandbox
from tasks.source import download
from tasks.text import calibrate

DEMO = Path(__file__).parent.parent / "deployments" / "recipes" / "demo.yaml"
METHODS = ("gptq", "autoround", "awq")


def main() -> None:
    """Print a table with a row for each variant and arithmetic."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    options = parser.parse_args()
    recipe = _recipe(set(options.methods))
    print(f"{processor_name()}, {processor.of_this_machine()}\n")
    print("| variant | arithmetic | quantize, s | perplexity | mean KL | MB |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as home:
        settings = load_settings().model_copy(update={"home": Path(home), "speed_s": 1.0})
        store, sandbox = open_store(settings.store_uri), Sandbox(settings)
        origin = download.inspect_source(recipe.model, settings.home)
        snapshot = download.fetch_snapshot(origin, store, sandbox)
        tokens = calibrate.build_token_sets(recipe, snapshot, store, sandbox, True)
        plan = jobs.make_plan(recipe, snapshot, *tokens, settings.engine_threads, {})
        evaluate.measure_artifact(plan.baseline, quantize.make_artifact(plan.baseline, store, sandbox), store, sandbox)
        for job in plan.variants:
            for arithmetic in job.spec.row.arithmetics:
                told = _told(job, arithmetic)
                made = quantize.make_artifact(told, store, sandbox)
                seen = evaluate.measure_artifact(told, made, store, sandbox).quality
                print(
                    f"| {job.name} | {arithmetic} | {made.quantize_s:.0f} | {seen.perplexity:.3f} | {seen.mean_kl:.4f} |"
                    f" {made.size_bytes / 1e6:.1f} |",
                    flush=True,
                )


def _recipe(methods: set[str]) -> Recipe:
    """Return the demo's recipe with these methods only; AWQ, which the demo lacks, gets GPTQ's settings."""
    demo = read_recipe(DEMO).model_dump(mode="json", exclude_defaults=True)
    asked = [variant for variant in demo["variants"] if variant["method"] in methods]
    if "awq" in methods:
        asked.append({"method": "awq", "bits": 4, "group_size": 64})
    return parse_recipe(demo | {"variants": asked})


def _told(job: VariantJob, arithmetic: str) -> VariantJob:
    """Return a job with another arithmetic, and with keys of its own."""
    named = ("artifact_key", "body_key", "report_key", "speed_key")
    changed = {
        name: keys.stage_key(name.partition("_")[0], of=getattr(job, name), arithmetic=arithmetic) for name in named
    }
    return job.model_copy(update={"arithmetic": arithmetic, **changed})


if __name__ == "__main__":
    main()
