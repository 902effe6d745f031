"""Transformers 4 and 5 read a published config.json alike, though they name RoPE differently."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from quantmill.records.artifact import Artifact
from quantmill.store.places import open_store
from quantmill.store.store import Store
from tasks.model import config_forms
from tests import older_transformers, samples
from tests.service import Embedded

FACTORS = [1.0, 2.0] * 16
LONG = {"rope_type": "longrope", "rope_theta": 7e4, "short_factor": FACTORS, "long_factor": FACTORS[::-1]}
ORIGINAL = {"original_max_position_embeddings": 512}
SCALED: dict[str, dict[str, Any]] = {
    "plain": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16.0, "attention_factor": 1.1, **ORIGINAL},
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ORIGINAL},
}
GEMMA = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
    "sliding_attention": {"rope_type": "default", "rope_theta": 777.0},
}
CASES: dict[str, dict[str, Any]] = {
    **{f"llama {name}": {"rope_parameters": said | {"rope_theta": 1e5}} for name, said in SCALED.items()},
    **{
        f"{kind} plain": {"rope_parameters": {"rope_type": "default", "rope_theta": 7e4}}
        for kind in (
            "mistral",
            "mixtral",
            "qwen2",
            "qwen3",
            "gemma2",
            "granite",
            "cohere",
            "olmo2",
            "starcoder2",
            "falcon",
        )
    },
    **{
        f"{kind} in part": {
            "rope_parameters": {"rope_type": "default", "rope_theta": 7e4, "partial_rotary_factor": 0.75}
        }
        for kind in ("phi", "stablelm", "glm4", "nemotron", "gpt_neox")
    },
    "phi3 longrope": {
        "rope_parameters": LONG | {"partial_rotary_factor": 1.0},
        **ORIGINAL,
        "hidden_size": 2048,
        "num_attention_heads": 32,
        "max_position_embeddings": 1024,
    },
    "olmo3 layers": {
        "rope_parameters": {
            "full_attention": SCALED["yarn"] | {"rope_theta": 7e4},
            "sliding_attention": {"rope_type": "default", "rope_theta": 7e4},
        }
    },
    "modernbert-decoder layers": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 7e4},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e3},
        }
    },
    "gemma3_text layers": {"rope_parameters": GEMMA, "sliding_window_pattern": 3, "num_hidden_layers": 6},
    "llama older": {"rope_theta": 9e4, "rope_scaling": {"type": "linear", "factor": 2.0}, "torch_dtype": "float16"},
    "gemma3_text older": {"rope_theta": 9e5, "rope_local_base_freq": 9e3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "olmo3 older": {"rope_theta": 9e4, "rope_scaling": SCALED["yarn"]},
    "gpt_oss older": {"rope_theta": 9e4, "num_hidden_layers": 2},
    "apertus older": {"rope_theta": 9e4},
    "stablelm older": {"rope_theta": 9e4, "partial_rotary_factor": None},
    "gpt2 without": {},
}  # fmt: skip
OLDER_NAMES = {
    "gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
    "modernbert-decoder": {"rope_theta": "global_rope_theta"},
}
UNSAID = ("olmo3 older", "gpt_oss older", "apertus older")
"""What these leave unsaid each release takes from its own class: nothing of that is ours."""
LOCAL_NAMES = {"modernbert-decoder": "local_rope_theta", "olmo3": "rope_theta"}


def config_of(case: str) -> dict[str, Any]:
    """Return the config.json of a case: as transformers 5 writes it, or an older one unchanged."""
    kind, _, way = case.partition(" ")
    said = json.loads(json.dumps(CASES[case]))
    if way == "older":
        return {"model_type": kind} | said
    written: dict[str, Any] = json.loads(CONFIG_MAPPING[kind](**said, dtype="bfloat16").to_json_string())
    assert not {"rope_theta", "rope_scaling", "torch_dtype"} & written.keys(), (
        "if these are written again, all this can go"
    )
    return written


def by_5(config: dict[str, Any]) -> dict[str, Any]:
    """Return what transformers 5 takes from a config, RoPE and type."""
    read = CONFIG_MAPPING[config["model_type"]].from_dict(json.loads(json.dumps(config)))
    rope = dict(getattr(read, "rope_parameters", None) or {})
    if "rope_type" in rope:
        rope.pop("type", None)  # as transformers 4 wrote `rope_type`, kept beside it
    return {"rope": rope, "dtype": str(read.dtype).removeprefix("torch.")}


@pytest.mark.parametrize("case", CASES)
def test_transformers_5_reads_what_it_read_before(case: str) -> None:
    config = config_of(case)
    both = config_forms.both_forms(config)
    assert by_5(both) == by_5(config)
    assert config_forms.both_forms(both) == both
    assert {name: both[name] for name in config} == config, "nothing that was said is another"


@pytest.mark.slow
@pytest.mark.parametrize("release", older_transformers.RELEASES)
def test_transformers_4_reads_the_same_values(release: str) -> None:
    configs = {case: config_of(case) for case in CASES}
    read = older_transformers.read(release, [config_forms.both_forms(config) for config in configs.values()])
    known = {case for case, found in zip(configs, read, strict=True) if found}
    newer = {"qwen3", "olmo2", "olmo3", "glm4", "gemma3_text", "modernbert-decoder", "gpt_oss", "apertus"}
    assert {case.partition(" ")[0] for case in configs.keys() - known} <= (newer if release == "4.45" else set())
    for (case, config), found in zip(configs.items(), read, strict=True):
        if found and case not in UNSAID:
            kind = config["model_type"]
            names = {
                name: OLDER_NAMES.get(kind, {}).get(name, name) for name in ("rope_theta", "partial_rotary_factor")
            }
            expected = by_5(config)
            assert str(found["torch_dtype"]).removeprefix("torch.") == expected["dtype"], case
            same_rope(case, {name: found.get(old) for name, old in names.items()} | {"all": found}, expected["rope"])


def same_rope(case: str, found: dict[str, Any], expected: dict[str, Any] | None) -> None:
    """Compare what transformers 4 took with `rope_parameters` of transformers 5."""
    everything = found.pop("all")
    if not expected:
        assert not found["rope_theta"], case
        return
    if local := expected.get("sliding_attention"):
        kind = case.partition(" ")[0]
        assert everything[LOCAL_NAMES.get(kind, "rope_local_base_freq")] == local["rope_theta"], case
        if period := CASES[case].get("sliding_window_pattern"):
            assert everything["sliding_window_pattern"] == period, case
        expected = expected["full_attention"]
    for name, value in found.items():
        assert value == expected.get(name, value), (case, name)
    scaling = dict(everything.get("rope_scaling") or {"rope_type": "default"})
    scaling.setdefault("rope_type", scaling.pop("type", None))
    plain = {name: value for name, value in expected.items() if name not in ("type", *found)}
    if "original_max_position_embeddings" not in scaling and "original_max_position_embeddings" in plain:
        assert plain.pop("original_max_position_embeddings") == everything["original_max_position_embeddings"], case
    assert {name: scaling[name] for name in plain} == plain, case


@pytest.mark.slow
@pytest.mark.parametrize("release", older_transformers.RELEASES)
def test_what_the_line_published_is_read_by_transformers_4(embedded: Embedded, trained: Path, release: str) -> None:
    """Folders of each kind, and the config beside a GGUF: through the command, as consumers pull them."""
    store = open_store(embedded.home / "store")
    source = json.loads((trained / "config.json").read_text())
    configs = []
    for row in embedded.summary["variants"]:
        (file,) = [file for file in store.manifest(row["manifest"]).files if file.path == "config.json"]
        store.fetch((file,), embedded.home.parent / release / row["name"])
        configs.append(json.loads((embedded.home.parent / release / row["name"] / "config.json").read_text()))
    assert len(configs) == 3
    expected = by_5(source)
    for config, found in zip(configs, older_transformers.read(release, configs), strict=True):
        assert config["rope_theta"] == expected["rope"]["rope_theta"]
        assert found is not None
        assert (found["rope_theta"], found["rope_scaling"]) == (expected["rope"]["rope_theta"], None)
        assert str(found["torch_dtype"]).removeprefix("torch.") == expected["dtype"]


def stored(folder: Path, config: dict[str, Any]) -> tuple[Artifact, Store]:
    """Return an artifact of a store that has nothing but a config."""
    store = open_store(folder / "store")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(config))
    files = store.add_folder(folder / "model")
    artifact = samples.outcome("imported", 1).artifact
    assert artifact is not None
    return artifact.model_copy(update={"files": files}), store


@pytest.mark.parametrize(
    ("config", "mark"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}, "dtype": "bfloat16"}, "rope_theta and torch_dtype"),
        ({"rope_parameters": SCALED["yarn"] | {"rope_theta": 1e4}, "rope_theta": 1e4}, "rope_scaling"),
        ({"rope_theta": 1e5, "torch_dtype": "bfloat16"}, ""),
        ({"rope_theta": 1e5, "rope_scaling": {"type": "linear", "factor": 2.0}, "torch_dtype": "bfloat16"}, ""),
    ],
)  # fmt: skip
def test_what_older_readers_miss_in_a_checkpoint_is_a_mark(tmp_path: Path, config: dict[str, Any], mark: str) -> None:
    artifact, store = stored(tmp_path, {"model_type": "llama"} | config)
    assert config_forms.missed(artifact, store) == ((f"transformers 4 misses {mark}",) if mark else ())


def test_a_config_that_is_a_link_to_the_store_s_file_leaves_that_alone(tmp_path: Path) -> None:
    artifact, store = stored(tmp_path, {"model_type": "llama", "dtype": "bfloat16"})
    store.fetch(artifact.files, tmp_path / "out")
    assert config_forms.complete(tmp_path / "out" / "config.json")
    assert not config_forms.complete(tmp_path / "out" / "config.json"), "once is enough"
    assert config_forms.read_stored(artifact, store) == {"model_type": "llama", "dtype": "bfloat16"}
