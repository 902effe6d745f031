"""A model folder of a few kilobytes and an interpreter with scripted jobs: a line without an engine."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "vocab_size": 256,
    "tie_word_embeddings": True,
}
_HEAD = f"""
import json, os, shutil, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
job = json.loads(Path(sys.argv[1]).read_text())
kind, told, folder = job["kind"], job["arguments"], Path(job["folder"])
out = folder / "out"
tensors = [dict(name="w", scheme="bf16", bits=16.0, parameters=1000)]

def copy(source):
    for path in Path(source).iterdir():
        if path.is_file():
            shutil.copyfile(path, out / path.name)

def leave(**value):
    (folder / "result.json").write_text(json.dumps(dict(value=value, peak_memory_bytes=0)))

def measure():
    from tests import samples
    (out / "trace").write_text("as a trace would be")
    made = samples.report("any").model_dump(mode="json")
    known = ("name", "artifact_digest", "evaluation_digest", "runtime", "evaluate_s")
    leave(**dict((name, value) for name, value in made.items() if name not in known))

"""
COPIES = """
if kind == "snapshot":
    copy(told["source"])
    leave(source_types={}, notes=[])
elif kind == "artifact":
    copy(told["source"])
    leave(tensors=tensors, hardware="a processor", starved_experts={})
elif kind == "report":
    time.sleep(120)
"""
"""Jobs that copy the model in place of an engine's work; a measurement lasts until it is killed."""


def model(folder: Path) -> Path:
    """Write a model folder of one layer, with a tokenizer that knows bytes."""
    import numpy
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    folder.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={sign: number for number, sign in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file({"model.embed_tokens.weight": numpy.ones((256, 64), numpy.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def recipe(folder: Path) -> dict[str, object]:
    """Return a recipe with one variant for a small model and a text, which are written into `folder`."""
    text = folder / "text.txt"
    source = model(folder / "model")
    text.write_text("\n\n".join(f"Line {number} of a text that says little." * 3 for number in range(400)))
    windows = {"source": str(text), "samples": 6, "sequence_length": 64}
    return {
        "model": {"source": str(source)},
        "calibration": dict(windows),
        "evaluation": windows,
        "variants": [{"method": "bitsandbytes", "bits": 8}],
        "publish": {"model": "small"},
    }


def interpreter(folder: Path, starts: Path, body: str = COPIES) -> Path:
    """Return an interpreter for QUANTMILL_PYTHON: it copies its job file to `starts` and runs `body`."""
    code, python = folder / "body.py", folder / "python"
    code.write_text(_HEAD + body)
    python.write_text(f'#!/bin/sh\ncp "$3" {starts}/$$.tmp; mv {starts}/$$.tmp {starts}/$$.json\n')
    with python.open("a") as script:
        script.write(f'exec {sys.executable} {code} "$3"\n')
    python.chmod(0o755)
    return python
