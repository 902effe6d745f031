"""How a published folder is loaded: by the library that opened it while it was measured, and without anything of ours.

A line for a terminal, which ends what `pull` prints, and a script for whoever reads the model card.
"""

import shlex
from pathlib import Path

from quantmill.recipe.methods import METHODS
from quantmill.records.manifest import Manifest
from quantmill.records.selection import packer

# Library -> what opens PLACE: a line, and a script that writes some words. HQQ's folders hold lines of their own.
_LINES: dict[str, str] = {
    "transformers": "from transformers import AutoModelForCausalLM as M; M.from_pretrained(PLACE)",
    "gptqmodel": "from gptqmodel import GPTQModel; GPTQModel.load(PLACE)",
    "llama_cpp": "from llama_cpp import Llama; print(Llama(PLACE, verbose=False)('Paris is', max_tokens=8))",
}
_SCRIPTS: dict[str, str] = {
    "transformers": """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(PLACE)
model = AutoModelForCausalLM.from_pretrained(PLACE, dtype="auto", device_map="auto")
words = tokenizer("Once upon a time", return_tensors="pt").to(model.device)
print(tokenizer.decode(model.generate(**words, max_new_tokens=16)[0]))
""",
    "gptqmodel": """\
from gptqmodel import GPTQModel

model = GPTQModel.load(PLACE)
print(model.tokenizer.decode(model.generate("Once upon a time", max_new_tokens=16)[0]))
""",
    "llama_cpp": """\
from llama_cpp import Llama

model = Llama(PLACE, verbose=False)
print(model("Once upon a time", max_tokens=16)["choices"][0]["text"])
""",
}


def library(manifest: Manifest) -> str:
    """Return the library that loads a version: the one that it was measured with; of older versions its method's."""
    row = METHODS.get(packer(manifest))
    return manifest.evaluation.runtime or (row.runtime if row else "transformers")


def gguf_file(manifest: Manifest) -> str:
    """Return the name of a version's GGUF; empty: it has none."""
    return next((file.path for file in manifest.files if file.path.endswith(".gguf")), "")


def script(manifest: Manifest) -> str:
    """Return lines of Python that load a version and write some words, where its folder is the working directory."""
    name = library(manifest)
    place = gguf_file(manifest) if name == "llama_cpp" else "."
    return _SCRIPTS.get(name, _SCRIPTS["transformers"]).replace("PLACE", f'"{place}"')


def how_to_load(folder: Path, manifest: Manifest, program: str = "") -> str:
    """Return the command that loads a version, or where to read how.

    `program`: one of the programs that open it (`selection.LOADERS`); none: the library that opened it while it was measured.
    """
    if program == "vllm":
        return shlex.join(["vllm", "serve", str(folder)])
    name = program.replace(".", "_") if program.replace(".", "_") in (*_LINES, "hqq") else library(manifest)
    if name == "hqq":
        return f"see {folder / 'README.md'}: it needs the hqq package"
    place = folder / gguf_file(manifest) if name == "llama_cpp" else folder
    code = _LINES.get(name, _LINES["transformers"]).replace("PLACE", repr(str(place)))
    plain = not set(code) & set('"$`\\!')
    return f'python -c "{code}"' if plain else shlex.join(["python", "-c", code])
