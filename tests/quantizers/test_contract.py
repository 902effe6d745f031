"""What every method owes, one body for all: a complete folder, an account of every weight, equal bytes for equal input."""

from pathlib import Path

import pytest

from flows import jobs
from quantmill.artifact import Artifact, VariantJob
from quantmill.methods import METHODS
from quantmill.recipe_file import parse_recipe
from quantmill.settings import Settings
from quantmill.store.folder import FolderStore
from tasks import calibrate, convert, download, quantize
from tasks.sandbox import Sandbox

pytestmark = pytest.mark.slow

# One entry a way of quantizing: the request, and the stored bits per weight of what is quantized, scales included.
VARIANTS = [
    ({"method": "baseline"}, {"bf16": 16.0}),
    ({"method": "bitsandbytes", "type": "int8"}, {"int8": 8.0}),
    ({"method": "bitsandbytes", "type": "nf4"}, {"nf4": 4.0}),
    ({"method": "gptq", "bits": 4, "group_size": 64}, {"gptq": 4.0}),
    ({"method": "gguf", "type": "Q8_0"}, {"Q8_0": 8.5}),
    ({"method": "gguf", "type": "Q4_K_M"}, {"Q4_K": 4.5, "Q6_K": 6.5625}),
]


class Bench:
    """A store, a sandbox and the jobs of all variants on the tiny model."""

    def __init__(self, home: Path, model: Path) -> None:
        settings = Settings(home=home)
        self.store, self.sandbox = FolderStore(settings.store_path), Sandbox(settings)
        recipe = parse_recipe(
            {
                "model": {"source": str(model)},
                "calibration": {"samples": 2, "sequence_length": 64},
                "evaluation": {"samples": 2, "sequence_length": 64},
                "variants": [request for request, _ in VARIANTS],
            }
        )
        origin = download.inspect_source(recipe.model, home)
        snapshot = download.fetch_snapshot(origin, self.store, self.sandbox)
        tokens = calibrate.build_token_sets(recipe, snapshot, self.store, self.sandbox, True)
        plan = jobs.make_plan(recipe, snapshot, *tokens, settings.engine_threads)
        convert.convert_snapshot(snapshot, plan.conversion_key, plan.conversion_name, self.store, self.sandbox)
        self.jobs = dict(zip([job.name for job in plan.variants], plan.variants, strict=True))

    def make(self, job: VariantJob) -> Artifact:
        return quantize.make_artifact(job, self.store, self.sandbox)

    def forget(self, job: VariantJob) -> None:
        Path(self.store.uri, "stages", "artifact", f"{job.artifact_key}.json").unlink()


@pytest.fixture(scope="module")
def bench(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench") / "home", tiny)


@pytest.mark.parametrize("index", range(len(VARIANTS)), ids=lambda n: "-".join(map(str, VARIANTS[n][0].values())))
def test_contract(bench: Bench, index: int, tmp_path: Path) -> None:
    name, job = list(bench.jobs.items())[index]
    artifact, row = bench.make(job), job.spec.row

    paths = {file.path for file in artifact.files}
    assert paths >= {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}, "complete"
    weights = [file for file in artifact.files if file.path.endswith((".safetensors", ".gguf"))]
    assert len(weights) == 1
    assert weights[0].path.endswith(row.format)

    tokenizer = {file.path: file.sha256 for file in artifact.files}["tokenizer.json"]
    assert tokenizer == job.snapshot.tokenizer_digest, "as the source's, whatever the engine made of it"

    assert artifact.parameters == job.snapshot.parameters, "every weight is accounted for, once"
    stored = sum(tensor.bits * tensor.parameters for tensor in artifact.tensors) / 8
    overhead = 2_000_000 if row.format == "gguf" else 20_000  # a GGUF holds the tokenizer
    assert stored <= weights[0].size_bytes <= stored + overhead

    for scheme, bits in VARIANTS[index][1].items():
        made = [tensor for tensor in artifact.tensors if tensor.scheme == scheme]
        assert made, f"{scheme} in {sorted({tensor.scheme for tensor in artifact.tensors})}"
        assert all(bits <= tensor.bits <= bits * 1.2 for tensor in made)
        assert not any(tensor.fallback for tensor in made)

    text = " ".join((bench.sandbox.home / "logs").joinpath(f"{name}-artifact.log").read_text(errors="replace").split())
    assert "Traceback" not in text

    if row.deterministic:
        bench.forget(job)
        assert bench.make(job).files == artifact.files, "equal input gives equal bytes"


def test_every_built_method_is_here() -> None:
    assert {request["method"] for request, _ in VARIANTS} == {row.name for row in METHODS.values() if row.built}
