"""A changed chat template, generation settings or licence alone is published anew without an engine."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from quantmill.records.manifest import Manifest
from quantmill.store.layout import blob_key
from quantmill.store.places import open_store
from quantmill.store.store import Store
from tasks.source import take_in as folder_source
from tests.line import Line, resident_limit
from tests.model_folders import clutter
from tests.published import measured_beside

RECIPE: dict[str, Any] = {
    "evaluation": {"samples": 4, "sequence_length": 128, "seed": 1},
    "variants": [{"method": "hqq", "bits": 8}, {"method": "gguf", "type": "Q8_0"}],
    "gates": {"max_perplexity_ratio": 1.5, "max_mean_kl": 0.5},
    "publish": {"model": "tiny"},
}
NAMES = ("hqq-8bit-g64", "gguf-q8_0")


def copy(trained: Path, folder: Path) -> Path:
    shutil.copytree(trained, folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"top_k": 40, "temperature": 0.5}))
    clutter(folder)
    return folder


def change(folder: Path) -> None:
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text("{{- 'Be brief.\\n' }}" + template)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"temperature": 0.75}))
    (folder / "LICENSE").write_text("Apache License, Version 2.0")


def manifests(home: Path) -> dict[str, Manifest]:
    """Return variant -> the manifest of its newest version."""
    store = open_store(home / "store")
    return {name: store.manifest(store.versions("tiny", name)[-1].manifest) for name in NAMES}


def tensors(store: Store, manifest: Manifest, folder: Path) -> dict[str, bytes]:
    from tasks.model.gguf_blocks import BlockReader

    (file,) = [file for file in manifest.files if file.path.endswith(".gguf")]
    store.objects.fetch_file(blob_key(file.sha256), file, folder / file.sha256)
    return {tensor.name: bytes(tensor.data) for tensor in BlockReader(folder / file.sha256).tensors}


@pytest.mark.slow
def test_other_companions_are_published_without_quantizing(
    trained: Path, tmp_path: Path, prefect_url: str, empty_mlflow: Path
) -> None:
    from gguf import GGUFReader

    model, mlflow = copy(trained, tmp_path / "model"), shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    recipe = RECIPE | {"model": {"source": str(model)}}
    shared = {"PREFECT_API_URL": prefect_url, "QUANTMILL_MLFLOW_URI": f"sqlite:///{mlflow}"}
    line = Line(tmp_path / "line", tmp_path / "home", recipe, **shared)
    _, first, started = line.run()
    assert [job for job in started if job.startswith("artifact")], "the first time engines work"
    before = manifests(line.home)
    for made in before.values():
        names = {file.path for file in made.files}
        assert {"USE_POLICY.md", "LICENSE-MODEL.txt"} <= names, "terms are carried along"
        assert not {name for name in names if name.endswith((".py", ".bin", ".png", ".index.json"))}

    change(model)
    _, second, started = line.run()
    assert started == [
        "dress baseline-bf16",
        "dress gguf-f32",
        "dress gguf-q8_0",
        "dress hqq-8bit-g64",
        "snapshot folder",
    ]
    after = manifests(line.home)
    for name in NAMES:
        old, new = ({f.path: f.sha256 for f in m[name].files} for m in (before, after))
        changed = {path for path in old.keys() | new.keys() if old.get(path) != new.get(path)}
        weights = {"model-Q8_0.gguf"} if name == "gguf-q8_0" else set()
        card = {"README.md"}  # it names the source's revision
        assert changed == {"chat_template.jinja", "generation_config.json", "LICENSE"} | weights | card
        assert after[name].safety.chat_template_sha256 == new["chat_template.jinja"]
        same_size = {"bits_per_weight": before[name].evaluation.bits_per_weight}  # a GGUF counts its metadata
        measured = after[name].evaluation.model_copy(update=same_size)
        assert measured == measured_beside(before[name], after[name]), "measured once"
        assert after[name].model.revision != before[name].model.revision
    store = open_store(line.home / "store")
    assert tensors(store, before["gguf-q8_0"], tmp_path) == tensors(store, after["gguf-q8_0"], tmp_path)
    (file,) = [file for file in after["gguf-q8_0"].files if file.path.endswith(".gguf")]
    fields = GGUFReader(tmp_path / file.sha256).fields
    assert fields["tokenizer.chat_template"].contents() == (model / "chat_template.jinja").read_text()
    assert fields["general.sampling.temp"].contents() == pytest.approx(0.75)

    _, third, started = line.run()
    assert started == []
    assert [row["manifest"] for row in third["variants"]] == [row["manifest"] for row in second["variants"]]
    assert {row["manifest"] for row in third["variants"]}.isdisjoint(row["manifest"] for row in first["variants"])

    fresh = Line(tmp_path / "fresh", tmp_path / "other", recipe, **shared)
    with resident_limit(500 * 10**6):  # what is made does not depend on it, how it is scored does
        _, short, _ = fresh.run()
    _was_scored_in_bf16(short, second)
    for name in NAMES:
        anew, dressed = (
            [file for file in made[name].files if file.path != "README.md"]  # a card has the speed of its own run
            for made in (manifests(fresh.home), after)
        )
        assert anew == dressed, "as if all had been made of the new state"


def _was_scored_in_bf16(short: dict[str, Any], roomy: dict[str, Any]) -> None:
    """Check a line without memory for fp32: bf16's tolerance holds for the trace, and all figures say so."""
    assert (short["baseline"]["compute_dtype"], roomy["baseline"]["compute_dtype"]) == ("bfloat16", "float32")
    assert all(least < 1e-5 for least in roomy["noise_floor"].values())
    assert all(least >= 2e-3 for least in short["noise_floor"].values()), "nothing below what bf16 alone costs ranks"
    marks = {row["name"]: {mark for mark in row["marks"] if "bfloat16" in mark} for row in short["variants"]}
    both = {"scored in bfloat16", "reference in bfloat16"}
    assert marks == {"hqq-8bit-g64": both, "gguf-q8_0": {"reference in bfloat16"}}
    assert not [mark for row in roomy["variants"] for mark in row["marks"] if "bfloat16" in mark]
    for row, exact in zip(short["variants"], roomy["variants"], strict=True):
        assert row["status"] == "accepted"
        assert row["perplexity"] == pytest.approx(exact["perplexity"], rel=0.02)


def test_a_template_inside_the_tokenizer_s_settings_becomes_a_file(tmp_path: Path) -> None:
    from tests.model_folders import model_folder

    settings = {"eos_token": "<e>", "chat_template": "{{ messages }}"}
    model = model_folder(tmp_path / "model", {}, tokenizer_config__json=settings)
    out = tmp_path / "out"
    out.mkdir()
    names = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
    notes = folder_source.take_in(model, names, out, lambda *_: None)
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"
    assert json.loads((out / "tokenizer_config.json").read_text()) == {"eos_token": "<e>"}
    assert "chat template moved from tokenizer_config.json into chat_template.jinja" in notes


def test_of_two_templates_the_file_counts(tmp_path: Path) -> None:
    from tests.model_folders import model_folder

    settings = {"chat_template": "old"}
    model = model_folder(tmp_path / "model", {}, tokenizer_config__json=settings, chat_template__jinja=b"new")
    out = tmp_path / "out"
    out.mkdir()
    names = ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors"]
    folder_source.take_in(model, names, out, lambda *_: None)
    assert (out / "chat_template.jinja").read_text() == "new"
    assert json.loads((out / "tokenizer_config.json").read_text()) == {}
