"""Folders that look like models, and the command line on a recipe that is refused."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 100,
}


_HEADER = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


ONE_WEIGHT = len(_HEADER).to_bytes(8, "little") + _HEADER + b"\0\0\0\0"


def model_folder(folder: Path, config: dict[str, Any] | None = None, **files: bytes | dict[str, Any]) -> Path:
    """Write a folder that looks like a model, with `__` in names for `.`."""
    import numpy
    from safetensors.numpy import save_file

    folder.mkdir()
    save_file({"w": numpy.zeros((2, 2), numpy.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}')
    for name, content in files.items():
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


def clutter(folder: Path) -> None:
    """Add what a cloned repository holds beside a model: other formats, code, terms, a stale index."""
    for name, content in {
        "pytorch_model.bin": b"\x80\x04.",
        "modeling_llama.py": b"raise SystemExit",
        "picture.png": b"\x89PNG",
        ".gitattributes": b"*.bin filter=lfs",
        "model.safetensors.index.json": b'{"weight_map": {"gone": "model-00001-of-00002.safetensors"}}',
        "consolidated.safetensors": b"not looked at",
        "USE_POLICY.md": b"Be kind.",
        "LICENSE-MODEL": b"Some terms.",
        "LICENSE.pdf": b"%PDF",
        "original/params.json": b"{}",
        "original/consolidated.00.pth": b"\x80\x04.",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def sharded_folder(folder: Path, **config: Any) -> Path:
    """Write a model folder whose weights are in two parts that an index names."""
    import numpy
    from safetensors.numpy import save_file

    model_folder(folder, config)
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for part, name in enumerate(("a", "b"), start=1):
        file = f"model-0000{part}-of-00002.safetensors"
        save_file({name: numpy.full((2, 3), part, numpy.float32)}, folder / file)
        weight_map[name] = file
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def compress(tmp_path: Path, recipe: str | dict[str, Any], *arguments: str) -> tuple[int, str, float]:
    """Run `compress` on a refused recipe; return exit code, standard error and seconds.

    Fail if anything was written.
    """
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe if isinstance(recipe, str) else yaml.safe_dump(recipe))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "quantmill.cli", "compress", str(path), *arguments],
        env=os.environ | {"QUANTMILL_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert not (tmp_path / "home").exists(), "nothing is written"
    return done.returncode, done.stderr, time.monotonic() - began
