"""What every method owes, one body for all: a complete folder, an account of every weight, equal bytes for equal input."""

import re
from pathlib import Path

import pytest

from quantmill.recipe.methods import METHODS
from quantmill.recipe.recipe import VariantSpec
from quantmill.records import planning
from quantmill.records.artifact import QuantizedTensor
from tests.tasks.quantize.bench import VARIANTS, Bench

pytestmark = pytest.mark.slow


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
    overhead = 2_000_000 if row.format == "gguf" else 40_000  # a GGUF holds the tokenizer
    assert stored <= weights[0].size_bytes <= stored + overhead

    matrices = [tensor for tensor in artifact.tensors if is_matrix(tensor)]
    assert VARIANTS[index][1] == {tensor.scheme for tensor in matrices} - ({"bf16"} if job.spec.layers else set())
    assert not any(tensor.fallback for tensor in artifact.tensors)
    expected = {tensor.name: planning.stored_bits(asked(job.spec, tensor.name)) for tensor in matrices}
    if "_M" not in str(job.spec.type):
        parameters = {tensor.name: tensor.parameters for tensor in matrices}
        size = sum(tensor.bits * tensor.parameters for tensor in matrices)
        assert size == pytest.approx(sum(expected[name] * parameters[name] for name in expected), rel=0.1)

    text = " ".join((bench.sandbox.home / "logs").joinpath(f"{name}-artifact.log").read_text(errors="replace").split())
    assert "Traceback" not in text

    if row.deterministic:
        bench.forget(job)
        assert bench.make(job).files == artifact.files, "equal input gives equal bytes"


def is_matrix(tensor: QuantizedTensor) -> bool:
    return not any(word in tensor.name for word in ("embd", "embed", "norm", "lm_head"))


def asked(spec: VariantSpec, tensor: str) -> VariantSpec:
    """The spec that this tensor falls under: its own, or a rule's width."""
    name = tensor.replace("ffn_down", "down_proj").replace("blk.1.attn", "layers.1.self_attn")
    rule = next((rule for rule in spec.layers if re.search(rule.match, name)), None)
    if rule is None:
        return spec
    if rule.bits == 16:
        return VariantSpec(method="gguf", bits=16, type="BF16")
    return spec.model_copy(update={"bits": rule.bits, "type": "Q8_0"})


def test_every_method_is_here() -> None:
    assert {request["method"] for request, _ in VARIANTS} | {"imported"} == set(METHODS), (
        "it makes nothing: test_imported"
    )
