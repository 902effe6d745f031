"""Tables: the pool that each variant goes to, and the lists of pools that are refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import jobs, sendable
from flows.pools.pools import Pool, candidates, read_pools
from quantmill.errors import RequestError
from quantmill.recipe.recipe_file import parse_recipe
from quantmill.recipe.variant_request import VariantRequest
from quantmill.records.artifact import Snapshot, TokenSet

CPU: dict[str, Any] = {"name": "cpu", "memory": "16GB"}
GPU: dict[str, Any] = {"name": "gpu-24", "device": "cuda", "memory": "24GB", "methods": ["gptq", "awq", "bitsandbytes"]}
LARGE = GPU | {"name": "gpu-80", "memory": "80GB"}


def written(folder: Path, *pools: dict[str, Any]) -> Path:
    path = folder / "pools.yaml"
    path.write_text(yaml.safe_dump({"pools": list(pools)}))
    return path


def chosen(method: dict[str, Any], need_gb: float, device: str, *pools: dict[str, Any]) -> list[str]:
    (spec,) = VariantRequest(**method).expand()
    listed = [Pool.model_validate(pool) for pool in pools]
    return [pool.name for pool in candidates(spec, int(need_gb * 1e9), device, listed)]


@pytest.mark.parametrize(
    ("method", "need_gb", "device", "names"),
    [
        ({"method": "gptq"}, 2, "auto", ["gpu-24", "gpu-80", "cpu"]),
        ({"method": "gptq"}, 24, "auto", ["gpu-24", "gpu-80"]),
        ({"method": "gptq"}, 24.1, "auto", ["gpu-80"]),
        ({"method": "gptq"}, 2, "cpu", ["cpu"]),
        ({"method": "gptq"}, 2, "cuda:1", ["gpu-24", "gpu-80"]),
        ({"method": "gguf", "type": "Q8_0"}, 2, "auto", ["cpu"]),
        ({"method": "gguf", "type": "Q8_0"}, 2, "cuda", ["cpu"]),  # llama.cpp's quantizer has no use for a GPU
    ],
)
def test_the_smallest_that_fits_comes_first(
    method: dict[str, Any], need_gb: float, device: str, names: list[str]
) -> None:
    assert chosen(method, need_gb, device, LARGE, CPU, GPU) == names


def test_a_variant_that_fits_nowhere_is_refused() -> None:
    with pytest.raises(
        RequestError, match=r"gptq-4bit-g64: no pool takes it: it needs about 99 GB .* gpu-24 \(cuda, 24 GB"
    ):
        chosen({"method": "gptq"}, 99, "auto", CPU, GPU)


def test_a_variant_that_needs_an_environment_goes_where_it_is_made() -> None:
    (spec,) = VariantRequest(method="gptq").expand()
    plain, other = (Pool.model_validate(pool) for pool in (CPU, CPU | {"name": "other", "environments": ["cards"]}))
    assert candidates(spec, 1, "cpu", [plain, other], "cards") == [other]
    assert candidates(spec, 1, "cpu", [plain, other]) == [plain, other]
    with pytest.raises(
        RequestError, match=r"no pool takes it: .* on device cpu in the environment cards; there are cpu"
    ):
        candidates(spec, 1, "cpu", [plain], "cards")


@pytest.mark.parametrize(
    ("pools", "words"),
    [
        ([], "pools: Tuple should have at least 1 item"),
        ([CPU, CPU], "pools: pool cpu is listed twice"),
        ([CPU | {"memory": "16 parsecs"}], r"pools\[0\].memory: unknown unit parsecs; allowed: B, KB"),
        ([CPU | {"queu": "x"}], r"pools\[0\].queu: Extra inputs"),
        (
            [CPU | {"environments": ["carts"]}],
            r"pools\[0\].environments: carts: there is no such environment; allowed: cards",
        ),
        ([CPU | {"methods": ["gptk"]}], r"pools\[0\].methods\[0\]: Input should be 'baseline', "),
        ([CPU | {"type": "kubernetes"}], r"pools\[0\]: template: a pool of type kubernetes needs one"),
    ],
)
def test_a_bad_list_is_one_line(tmp_path: Path, pools: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(RequestError, match=words) as raised:
        read_pools(written(tmp_path, *pools))
    assert "\n" not in str(raised.value)


def test_a_template_lies_beside_its_list(tmp_path: Path) -> None:
    (pool,) = read_pools(written(tmp_path, CPU | {"type": "kubernetes", "template": "gpu.json"}))
    assert pool.template == tmp_path / "gpu.json"
    assert Pool.model_validate(CPU | {"memory": "1GiB"}).memory == 2**30


def test_a_job_that_no_run_can_carry_is_refused_before_any(tmp_path: Path) -> None:
    tensors = {f"blk.{number}.ffn_down_exps.weight": "Q4_K" for number in range(100)}
    shape = {
        "name": "L", "model_type": "llama", "layers": 1, "hidden_size": 64, "vocabulary_size": 9, "linear_inputs": [64], "packing": None
    }  # fmt: skip
    file = {"path": "tokenizer.json", "size_bytes": 1, "sha256": "ab" * 32}
    origin = {"request": {"source": "x"}, "kind": "folder", "files": [file], "architecture": shape}
    snapshot = Snapshot.model_validate({"origin": origin, "files": [file], "source_types": tensors, "parameters": 9})
    windows = TokenSet.model_validate(
        {"request": {}, "role": "evaluation", "text_sha256": "ab" * 32, "tokenizer_digest": "ab" * 32, "file": file}
    )
    recipe = parse_recipe({"model": {"source": "x"}, "variants": [{"method": "bitsandbytes"}]})
    plan = jobs.make_plan(recipe, snapshot, None, windows, 1, {})
    sendable.require_sendable(plan, 524_288)
    sendable.require_sendable(plan, 0)
    with pytest.raises(
        RequestError, match=r"^baseline-bf16: names 1 files and 100 types of tensors in \d+ bytes, .* takes 4000;"
    ):
        sendable.require_sendable(plan, 4000)
