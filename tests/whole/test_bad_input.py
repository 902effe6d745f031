"""Bad input: exit code 2, one line that names the field, nothing written, at once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SMOLLM2
from tests.model_folders import ROOT, compress, model_folder, sharded_folder

GOOD: dict[str, Any] = {"model": {"source": SMOLLM2}, "variants": [{"method": "gguf", "type": "Q8_0"}]}


PANIC = {
    "model": {"type": "BPE", "vocab": {}, "merges": []},
    "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"},  # the library's Rust ends in a panic
}


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (GOOD | {"variants": [{"method": "zip"}]}, "variants[0].method"),
        (GOOD | {"variants": [{"method": "gptq", "bits": 5}]}, "variants[0].bits: gptq supports 2, 3, 4, 8 bits, got 5"),
        (GOOD | {"variants": [{"method": "gptq", "group_size": 100}]}, "variants[0].group_size"),
        (GOOD | {"variants": [{"method": "gptq", "group_size": 128}]}, "group_size: 128 does not divide the model's layer width 576"),
        (GOOD | {"varients": []}, "varients: unknown key"),
        (GOOD | {"variants": []}, "variants"),
        (GOOD | {"variants": [{"method": "awq", "bits": 3}]}, "variants[0].bits: awq supports 4 bits"),
        ("variants: [", "recipe.yaml: not YAML"),
        ({"model": {"source": "./no-such-model"}, "variants": GOOD["variants"]}, "model.source: ./no-such-model: no such file or folder"),
        ({"model": {"source": "package://nothing/here.gguf"}, "variants": GOOD["variants"]}, "model.source: package://nothing/here.gguf"),
        (GOOD | {"calibration": {"source": "./rows.jsonl"}}, "calibration.source: ./rows.jsonl: no such file"),
        (GOOD | {"evaluation": {"mix": [{"source": "builtin"}, {"source": "x", "weight": 0}]}}, "evaluation.mix[1].weight: "),
        (GOOD | {"evaluation": {"mix": [{"source": "builtin"}, {"source": "a.parquet"}]}}, "evaluation.mix[1].source: a.parquet: no"),
        (GOOD | {"calibration": {"source": "dataset://org/name", "revision": "main"}}, "calibration.revision: dataset://org/name needs"),
        ({"model": {"source": "nowhere://org/name"}, "variants": GOOD["variants"]}, "model.source: nowhere://org/name: allowed are"),
        (GOOD | {"device": "tpu"}, "device: string should match pattern"),
        (GOOD | {"publish": {"model": "m", "approval": True}}, "publish.approval: only a run that the Prefect server started can wait"),
        (GOOD | {"device": "cuda:1"}, "device: cuda:1: this machine shows no NVIDIA driver; allowed here: auto, cpu"),
        ({"model": {"source": "org/name"}, "variants": GOOD["variants"]}, "org/name: no such file or folder; a model of the hub"),
        ({"model": {"source": "hf://name"}, "variants": GOOD["variants"]}, "model.source: hf://name: write it as hf://org/name"),
        ({"model": {"source": "hf://a/../b"}, "variants": GOOD["variants"]}, "model.source: hf://a/../b: write it as hf://org/name"),
        ({"model": {"source": "hf://a/b", "revision": "../x"}, "variants": GOOD["variants"]}, "model.revision: string should match"),
        ({"model": {"source": "s3://"}, "variants": GOOD["variants"], "publish": {"model": "m"}}, "model.source: s3://: write it as s3://bucket/prefix"),
        ({"model": {"source": "mlflow://models/x"}, "variants": GOOD["variants"]}, "model.source: mlflow://models/x: write it as mlflow://"),
        ({"model": {"source": "mlflow://models/x/1"}, "variants": GOOD["variants"]}, "mlflow://models/x/1: nothing is registered yet"),
        (GOOD | {"evaluation": {"samples": 2, "sequence_length": 128}}, "evaluation.samples: 2 windows of 128 tokens score 254 "),
        ({"model": {"source": SMOLLM2, "revision": "00"}, "variants": GOOD["variants"]}, "model.revision: 00: the source's digest is"),
    ],
)  # fmt: skip
def test_recipes(tmp_path: Path, recipe: str | dict[str, Any], words: str) -> None:
    code, error, _ = compress(tmp_path, recipe)
    assert (code, error.count("\n")) == (2, 1), error
    assert error.startswith("error: ")
    assert words in error


def test_windows_longer_than_the_model_s_texts(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model", {"max_position_embeddings": 256})
    code, error, _ = compress(tmp_path, GOOD | {"model": {"source": str(model)}})
    words = "evaluation.sequence_length: 512 tokens are more than the 256 that the model is made for (max_position_embeddings of"
    assert (code, error) == (2, f"error: {words} its config)\n")


@pytest.mark.parametrize("source", ["hf://org/name", "s3://bucket/name"])
def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """No fault of the request: exit code 1, and one line all the same."""
    for name in ("HF_ENDPOINT", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "a-key")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    code, error, _ = compress(tmp_path, GOOD | {"model": {"source": source}})
    assert (code, error.count("\n")) == (1, 1), error
    assert error.startswith(f"error: model.source: {source}: the ")
    assert "does not answer" in error


def test_it_is_refused_at_once(tmp_path: Path) -> None:
    """The slowest of the refusals: a text is looked at before the model's 98 MB are."""
    (tmp_path / "empty.txt").write_text("")
    code, error, seconds = compress(tmp_path, GOOD | {"calibration": {"source": str(tmp_path / "empty.txt")}})
    assert (code, error.count("\n")) == (2, 1)
    assert "calibration.source" in error
    assert "holds no text" in error
    assert seconds < 5


def test_a_chat_template_that_the_model_lacks_is_missed_before_the_run(tmp_path: Path) -> None:
    model = {"source": str(model_folder(tmp_path / "model"))}
    (tmp_path / "talks.jsonl").write_text('{"messages": [{"role": "user", "content": "hello there"}]}\n' * 2)
    talks = {"source": str(tmp_path / "talks.jsonl"), "samples": 1, "sequence_length": 257}
    sides = [compress(tmp_path, GOOD | {"model": model, role: talks}) for role in ("calibration", "evaluation")]
    assert all((code, error.count("\n")) == (2, 1) for code, error, _ in sides), sides
    assert any(": " + model["source"] + " has no chat template; give plain text" in error for _, error, _ in sides)


@pytest.mark.parametrize(
    ("config", "files", "words"),
    [
        ({}, {"model__safetensors": b"\x80\x04\x95renamed pickle"}, "model.safetensors: not a safetensors file"),
        ({}, {"model__safetensors": (1 << 40).to_bytes(8, "little") + b"{}"}, "model.safetensors: not a safetensors file"),
        ({}, {"vocab__json": b"[1]"}, "vocab.json: not a JSON object"),
        ({"architectures": ["BertModel"]}, {}, "BertModel: a causal language model"),
        ({"architectures": None}, {}, "a causal language model"),
        ({"quantization_config": {"quant_method": "gptq"}}, {}, "quantized with gptq already"),
        ({"hidden_size": "wide"}, {}, "the config states no hidden size: 'wide'"),
        ({"num_hidden_layers": -1}, {}, "the config states no layers"),
        ({"architectures": 5}, {}, "a causal language model"),
        ({}, {"tokenizer__json": {"a": 1}}, "tokenizer.json: not a tokenizer"),
        ({}, {"tokenizer__json": PANIC}, "tokenizer.json: not a tokenizer: Precompiled"),
        ({}, {"config__json": b"[1]"}, "config.json: not a JSON object"),
        ({}, {"config__json": b"{"}, "config.json: not JSON"),
        ({}, {"tokenizer__json": b"[" * 100_000}, "tokenizer.json: not JSON"),
    ],
)  # fmt: skip
def test_model_folders(tmp_path: Path, config: dict[str, Any], files: dict[str, Any], words: str) -> None:
    from quantmill.errors import SourceError
    from quantmill.recipe.recipe import ModelRequest
    from tasks.source.places import open_source

    with pytest.raises(SourceError) as raised:
        request = ModelRequest(source=str(model_folder(tmp_path / "model", config, **files)))
        open_source(request, tmp_path / "home").inspect()
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_parts_that_do_not_make_one_model(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    from quantmill.errors import SourceError
    from tasks.model.files import INDEX, list_files

    folder = sharded_folder(tmp_path / "model")
    assert len(list_files(folder)) == 5
    first, second = (f"model-0000{part}-of-00002.safetensors" for part in (1, 2))
    right = {"a": first, "b": second}
    for named, words in (
        (right | {"c": "../up.safetensors"}, "not a plain relative path: '../up.safetensors'"),
        (right | {"c": "gone.safetensors"}, "weights file 'gone.safetensors' is not there"),
        ({"a": first, "b": first, "c": second}, f"{second}: holds b, which {INDEX} does not place there"),
        (right | {"c": second}, f"{INDEX}: {second} does not hold c"),
    ):
        (folder / INDEX).write_text(json.dumps({"weight_map": named}))
        with pytest.raises(SourceError) as raised:
            list_files(folder)
        assert words in str(raised.value)
    (folder / INDEX).write_text(json.dumps({"weight_map": right}))
    save_file(load_file(folder / first) | load_file(folder / second), folder / second)
    with pytest.raises(SourceError, match=f"{second}: holds a, which {first} holds too"):
        list_files(folder)
    (folder / second).unlink()
    with pytest.raises(SourceError, match=f"weights file '{second}' is not there"):
        list_files(folder)


def test_a_folder_with_a_link_that_leaves_it(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "vocab.json").symlink_to("/etc/hostname")
    code, error, seconds = compress(tmp_path, GOOD | {"model": {"source": str(folder)}})
    assert (code, error) == (2, "error: model.source: vocab.json: a link that leaves the folder\n")
    assert seconds < 5


def test_a_pipe_and_a_missing_tokenizer(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in compress(tmp_path, GOOD | {"model": {"source": str(folder)}})[1]
    os.mkfifo(folder / "tokenizer.json")
    assert "tokenizer.json: not a plain file" in compress(tmp_path, GOOD | {"model": {"source": str(folder)}})[1]


def test_weights_of_a_type_that_is_no_plain_float_and_nan(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from quantmill.errors import SourceError
    from tasks.model.files import list_files
    from tasks.source.take_in import take_in

    folder = model_folder(tmp_path / "model")
    save_file({"w": torch.zeros(2, 2, dtype=torch.float8_e4m3fn)}, folder / "model.safetensors")
    with pytest.raises(SourceError, match="weights of type F8_E4M3; allowed are"):
        list_files(folder)
    for dtype in (torch.float32, torch.bfloat16):
        save_file(
            {"good": torch.ones(2), "bad": torch.tensor([1.0, float("nan")], dtype=dtype)}, folder / "model.safetensors"
        )
        (tmp_path / str(dtype)).mkdir()
        with pytest.raises(SourceError, match=r"model\.safetensors: bad holds NaN or Inf"):
            take_in(folder, list_files(folder), tmp_path / str(dtype), lambda *_: None)


def test_a_hub_cache_folder_may_link_to_its_own_blobs(tmp_path: Path) -> None:
    from tasks.model.files import list_files

    made = model_folder(tmp_path / "plain")
    hub = tmp_path / "models--org--name"
    snapshot = hub / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (hub / "blobs").mkdir()
    for path in made.iterdir():
        path.rename(hub / "blobs" / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    assert list_files(snapshot) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_no_room_is_said_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    from types import SimpleNamespace

    from quantmill.errors import NotEnoughSpace
    from quantmill.recipe.recipe_file import parse_recipe
    from tasks.source import download

    recipe = parse_recipe(GOOD)
    origin = download.inspect_source(recipe.model, tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(NotEnoughSpace, match=r"1\.0 GB free, the run needs about \d\.\d GB; set QUANTMILL_HOME"):
        download.require_space(recipe, origin, tmp_path / "not" / "there")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QUANTMILL_LOCAL_JOBS", "many"),
        ("QUANTMILL_JOB_TIMEOUT_S", "-1"),
        ("QUANTMILL_PYTHON", "/no/python"),
        ("QUANTMILL_HOME", "/etc/passwd"),
    ],
)
def test_settings(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    from quantmill.errors import SettingsError
    from quantmill.settings import load_settings

    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}: .*got '{value}'"):
        load_settings()


def test_a_json_file_that_cannot_be_written(tmp_path: Path) -> None:
    code, error, seconds = compress(tmp_path, GOOD, "--json", "no/such/folder/run.json")
    assert (code, error.count("\n")) == (2, 1)
    assert "--json: no/such/folder/run.json: must be a file in a folder that exists" in error
    assert seconds < 5


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [(["bootstrap"], 2, "error: PREFECT_API_URL: not set; name the server's API"), (["landed", "--dry-run"], 0, "")],
)
def test_a_new_home_is_no_reason_for_other_lines(tmp_path: Path, arguments: list[str], code: int, line: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "QUANTMILL_"))}
    (tmp_path / "watchlist.yaml").write_text(
        f"watch: [{{source: landing/*, recipe: {ROOT / 'deployments' / 'recipes' / 'demo.yaml'}}}]"
    )
    (tmp_path / "landing").mkdir()
    ended = subprocess.run(
        [sys.executable, "-m", "quantmill.cli", *arguments],
        cwd=tmp_path,
        env=environment | {"QUANTMILL_WATCHLIST": str(tmp_path / "watchlist.yaml"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (code, 1 if line else 0), ended.stderr
    assert ended.stderr.startswith(line)
    assert not (tmp_path / ".quantmill").exists(), "nothing came of it"
