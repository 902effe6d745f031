"""The model card: the hub's own parser reads it, and hostile text stays text.

Tests in `quantize/` run the card's lines.
"""

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from quantmill.files.entries import FileEntry
from quantmill.records.manifest import Manifest
from quantmill.records.report import BaselineMetrics
from quantmill.store.places import open_store
from tasks.publish import manifests
from tasks.publish.model_card import model_card
from tests import samples

WEIGHTS = (FileEntry(path="model.safetensors", size_bytes=5_000_000, sha256=samples.DIGEST),)

GPTQ = {"method": "gptq", "bits": 4, "group_size": 64, "desc_act": False, "sym": True, "format": "safetensors"}


def manifest(uri: str = "hf://org/name", license_name: str = "apache-2.0", **variant: Any) -> Manifest:
    """Return a made-up manifest with every fact that a card tells."""
    made = samples.manifest(WEIGHTS, "tiny/gptq-4bit-g64")
    windows = {"source": "builtin", "samples": 2, "sequence_length": 64, "seed": 1, "sha256": samples.DIGEST}
    evaluation = made.evaluation.model_copy(
        update={
            "baseline": BaselineMetrics.of(samples.outcome("baseline-bf16", 9_000_000, perplexity=16.0)),
            "perplexity_ratio": 17 / 16,
            "runtime": "transformers",
            "marks": ("80% fallback",),
            "windows": windows,
            "gate": {"max_mean_kl": 0.2, "max_p99_kl": 1e6},
        }
    )
    return made.model_copy(
        update={
            "model": made.model.model_copy(update={"uri": uri, "notes": ("weights went through Q4_1 once",)}),
            "variant": GPTQ | variant,
            "license": license_name,
            "calibration": windows | {"seed": 0},
            "evaluation": evaluation,
            "toolchain": {"gptqmodel": "7.6.0", "transformers": "5.23.0"},
        }
    )


def test_the_hub_reads_the_metadata() -> None:
    card = ModelCard(model_card(manifest()))
    assert card.data.to_dict() == {
        "license": "apache-2.0",
        "base_model": "org/name",
        "base_model_relation": "quantized",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["gptq", "4-bit", "safetensors", "quantmill"],
    }


def test_it_says_what_older_readers_miss_in_a_config_that_is_published_as_it_came() -> None:
    made = manifest()
    marks = ("80% fallback", "transformers 4 misses rope_theta and torch_dtype")
    text = model_card(made.model_copy(update={"evaluation": made.evaluation.model_copy(update={"marks": marks})}))
    assert "Of its figures: 80% fallback." in text
    how = text.partition("## How to load")[2].partition("## Calibration")[0]
    assert "It lacks rope_theta and torch_dtype: transformers 4 and others" in how
    assert "It lacks" not in model_card(made)


def test_it_says_how_it_measured_beside_the_baseline() -> None:
    text = model_card(manifest())
    for line in (
        "| perplexity | 17.000 | 16.000 |",
        "| perplexity ratio | 1.062 | 1.000 |",
        "| size, MB | 5.0 | 9.0 |",
        "Of its figures: 80% fallback.",
        "- max_mean_kl 0.2",
        "- weights went through Q4_1 once",
        "gptqmodel==7.6.0 optimum safetensors torch transformers==5.23.0",
    ):
        assert line in text
    assert "- transformers 5.23.0: ran, 2026-11" in text
    assert "- vLLM 0.32.0 on GPUs, `vllm serve .`: read, 2026-11, not run" in text
    assert "p99" not in text, "a limit that does not bind"


@pytest.mark.parametrize(
    ("runtime", "variant", "lines"),
    [
        (
            "transformers",
            {"method": "baseline", "bits": 16},
            ["vLLM 0.32.0 on processors, `vllm serve .`: ran, 2026-11"],
        ),
        (
            "transformers",
            {"method": "bitsandbytes", "bits": 4, "type": "nf4"},
            ["vLLM 0.32.0 on processors with vllm-bnb-plugin 0.0.3, `vllm serve .`: ran, 2026-11"],
        ),
        (
            "transformers",
            {"method": "gptq", "bits": 3, "group_size": 64, "sym": True},
            [
                "not vLLM 0.32.0 on GPUs: takes 4 or 8 bits, here: 3 (read, 2026-11, not run)",
                "not vLLM 0.32.0 on processors with AVX-512: takes 4 bits, here: 3 (read, 2026-11, not run)",
            ],
        ),
        (
            "gptqmodel",
            {"method": "gptq", "bits": 4, "group_size": 64, "sym": True, "layers": [{"match": "q", "bits": 8}]},
            ["not transformers 5.23.0: takes one width for all layers, here: yes (ran, 2026-11)"],
        ),
        (
            "llama_cpp",
            {"method": "gguf", "bits": 8, "type": "Q8_0"},
            ["llama.cpp 0.3.36, `llama-server -m model-Q8_0.gguf`: ran, 2026-11"],
        ),
    ],
)
def test_the_card_says_who_loads_just_this_variant(runtime: str, variant: dict[str, Any], lines: list[str]) -> None:
    made = manifest()
    files = (FileEntry(path="model-Q8_0.gguf", size_bytes=9, sha256="c" * 64), *made.files)
    measured = made.evaluation.model_copy(update={"runtime": runtime})
    told = variant | {"format": "gguf" if variant["method"] == "gguf" else "safetensors"}
    text = model_card(made.model_copy(update={"variant": told, "evaluation": measured, "files": files}))
    assert [line for line in lines if f"- {line}\n" not in text] == []


def test_the_card_of_a_card_is_the_same() -> None:
    """Whoever has the manifest can make the card again: its own entry changes nothing."""
    made = manifest()
    listed = FileEntry(path="README.md", size_bytes=9, sha256="c" * 64)
    assert model_card(made.model_copy(update={"files": (listed, *made.files)})) == model_card(made)


def test_a_checkpoint_that_was_taken_as_it_is() -> None:
    """It is loaded as what it is packed as, and its method did not run here."""
    packing = {"method": "gptq", "bits": 4, "format": "safetensors", "scheme": "gptq", "mixed": False, "label": "x"}
    text = model_card(manifest(method="imported", packing=packing, checkpoint=samples.DIGEST))
    assert ModelCard(text).data.tags[:2] == ["gptq", "4-bit"]
    assert "that was quantized elsewhere with `gptq`" in text
    assert samples.DIGEST in text
    assert "from_pretrained" in text


HOSTILE = 'x"]\n---\nlicense: mit\n<script>alert(1)</script> `rm` | [a](http://b) *b* \u2028: {yes}'


def test_hostile_words_stay_words() -> None:
    made = manifest(uri=f"package://{HOSTILE}", license_name=HOSTILE)
    made = made.model_copy(update={"hardware": HOSTILE, "model": made.model.model_copy(update={"notes": (HOSTILE,)})})
    text = model_card(made)
    card = ModelCard(text)
    assert card.data.license == "other"
    assert re.fullmatch(r"[a-z0-9.-]+", card.data.license_name)
    assert card.data.base_model is None
    assert "<script" not in card.text.replace("\\<", "")
    assert not re.search(r"(?<!\\)\[a", card.text)
    assert "\nlicense: mit" not in text


def test_a_local_folder_is_named_by_its_last_part() -> None:
    text = model_card(manifest(uri="/srv/secret-project/my-model"))
    assert "my-model" in text
    assert "secret-project" not in text


def test_a_licence_that_nobody_stated_is_not_made_up() -> None:
    text = model_card(manifest(license_name=""))
    assert "license" not in ModelCard(text).data.to_dict()
    assert "The source states none." in text


def test_a_card_that_came_with_a_checkpoint_is_kept_and_is_no_part_of_ours(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "README.md").write_text("# Theirs\n\nrm -rf /\n")
    packing = {"method": "gptq", "bits": 4}
    made = manifest(method="imported", packing=packing, checkpoint=samples.DIGEST)
    whole = manifests.with_card(made.model_copy(update={"files": store.add_folder(tmp_path / "made")}), store)
    assert [file.path for file in whole.files] == ["README.md", "README.original.md"]
    store.fetch(whole.files, tmp_path / "laid-out")
    assert (tmp_path / "laid-out" / "README.original.md").read_text() == "# Theirs\n\nrm -rf /\n"
    assert "rm -rf" not in (tmp_path / "laid-out" / "README.md").read_text()
