"""The contract of each method: complete folder, account of all weights, equal bytes, a loadable model."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from quantmill.recipe.recipe import VariantSpec
from quantmill.records import planning
from quantmill.records.artifact import Artifact, QuantizedTensor
from quantmill.records.job import VariantJob
from tests.tasks.quantize.bench import Bench

_OPEN = """
import json, sys
from pathlib import Path
from tasks.runtimes import Machine, runtime

for line in sys.stdin:
    name, library, folder = json.loads(line)
    model = runtime(library).load(Path(folder), Machine("cpu", 1, ""), 64, False)
    tokens = [model.start(__import__("numpy").array([1, 2, 3]))]
    tokens += [model.step(tokens[-1]) for _ in range(4)]
    print(json.dumps(["made", name, tokens, model.text(tokens)]), flush=True)
    model.close()
"""


def fulfilled(bench: Bench, job: VariantJob, schemes: set[str]) -> Artifact:
    """Make a job's artifact and check what its method owes.

    Args:
        bench: makes it.
        job: which variant.
        schemes: what the variant's matrices become.
    """
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

    matrices = [tensor for tensor in artifact.tensors if _is_matrix(tensor)]
    assert schemes == {tensor.scheme for tensor in matrices} - ({"bf16"} if job.spec.layers else set())
    assert not any(tensor.fallback for tensor in artifact.tensors)
    expected = {tensor.name: planning.stored_bits(_asked(job.spec, tensor.name)) for tensor in matrices}
    if "_M" not in str(job.spec.type):
        parameters = {tensor.name: tensor.parameters for tensor in matrices}
        size = sum(tensor.bits * tensor.parameters for tensor in matrices)
        assert size == pytest.approx(sum(expected[name] * parameters[name] for name in expected), rel=0.1)

    log = bench.sandbox.home / "logs" / f"{job.name}-artifact.log"
    assert "Traceback" not in log.read_text(errors="replace")

    if row.deterministic:
        bench.forget(job)
        assert bench.make(job).files == artifact.files, "equal input gives equal bytes"
    return artifact


def generated(bench: Bench, jobs: Iterable[VariantJob], place: Path) -> dict[str, tuple[list[int], str]]:
    """Open the artifacts as a consumer does, all in one process; return name -> (tokens, text)."""
    lines = []
    for job in jobs:
        bench.store.fetch(bench.make(job).files, place / job.name)

        lines.append(json.dumps([job.name, job.runtime, str(place / job.name)]))
    done = subprocess.run(
        [sys.executable, "-c", _OPEN], input="\n".join(lines), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["made"')]
    return {name: (tokens, text) for _, name, tokens, text in answers}


def _is_matrix(tensor: QuantizedTensor) -> bool:
    return not any(word in tensor.name for word in ("embd", "embed", "norm", "lm_head"))


def _asked(spec: VariantSpec, tensor: str) -> VariantSpec:
    """The spec that this tensor falls under: its own, or a rule's width."""
    name = tensor.replace("ffn_down", "down_proj").replace("blk.1.attn", "layers.1.self_attn")
    rule = next((rule for rule in spec.layers if re.search(rule.match, name)), None)
    if rule is None:
        return spec
    if rule.bits == 16:
        return VariantSpec(method="gguf", bits=16, type="BF16")
    return spec.model_copy(update={"bits": rule.bits, "type": "Q8_0"})
