"""How to load a published folder with the library that measured it, without Quantmill.

`pull` prints a command for a terminal; the model card holds a script.
"""

import shlex
from pathlib import Path

from quantmill.recipe.programs import Loads
from quantmill.records import selection
from quantmill.records.manifest import Manifest

# Library -> the line (`_LINES`) or the script (`_SCRIPTS`) that opens PLACE. For other libraries `pull` points to the README.
_LINES: dict[str, str] = {
    "transformers": "from transformers import AutoModelForCausalLM as M; M.from_pretrained(PLACE)",
    "gptqmodel": "from gptqmodel import GPTQModel; GPTQModel.load(PLACE)",
    "llama_cpp": "from llama_cpp import Llama; print(Llama(PLACE, verbose=False)('Paris is', max_tokens=8))",
}
_SERVERS = {"vllm": "vllm serve"}
"""Program that serves a folder -> its command."""
PACKAGES = {"llama_cpp": {"llama-cpp-python"}, "gptqmodel": {"gptqmodel"}}
"""Library that loads its files without the method's packages -> its own package."""
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


def gguf_file(manifest: Manifest) -> str:
    """Return the name of a version's first GGUF file; empty: it has none."""
    return next((file.path for file in manifest.files if file.path.endswith(".gguf")), "")


def script(manifest: Manifest) -> str:
    """Return a Python script that loads a version and generates text.

    The version's folder must be the working directory.
    """
    name = selection.library(manifest)
    place = gguf_file(manifest) if name == "llama_cpp" else "."
    if name not in _SCRIPTS:
        raise ValueError(f"{name}: quantmill/records/loading.py has no script for this library")
    return _SCRIPTS[name].replace("PLACE", f'"{place}"')


def how_to_load(folder: Path, manifest: Manifest, program: str = "") -> str:
    """Return the command that loads a version, or a pointer to its README.

    `program`: the program that opens it (`--where runtime=`); empty: the library that measured it.
    """
    if program in _SERVERS:
        return shlex.join([*_SERVERS[program].split(), str(folder)])
    own, asked = selection.library(manifest), program.replace(".", "_")
    name = asked if asked in (*_LINES, own) else own
    if name not in _LINES:
        return f"see {folder / 'README.md'}: it needs the {name} package"
    place = folder / gguf_file(manifest) if name == "llama_cpp" else folder
    code = _LINES[name].replace("PLACE", repr(str(place)))
    plain = not set(code) & set('"$`\\!')
    return f'python -c "{code}"' if plain else shlex.join(["python", "-c", code])


def programs(manifest: Manifest) -> list[str]:
    """Return a line for each program that loads a version or refuses it, with the evidence.

    Commands in the lines take the version's folder as the working directory.
    """
    facts, rules = selection.facts(manifest), selection.rules(manifest)
    takes = [rule for rule in rules if not rule.refuses(facts)]
    lines = [f"{rule.place}{_command(rule, manifest)}: {rule.proof}" for rule in takes]
    taken = {(rule.program, device) for rule in takes for device in rule.devices}
    others = [rule for rule in rules if not {(rule.program, device) for device in rule.devices} & taken]
    return lines + [f"not {rule.place}: {rule.refuses(facts)} ({rule.proof})" for rule in others]


def _command(rule: Loads, manifest: Manifest) -> str:
    """Return the command that starts the program if it is a server; else nothing."""
    if rule.program == "llama.cpp":
        return f", `llama-server -m {gguf_file(manifest)}`"
    return f", `{_SERVERS[rule.program]} .`" if rule.program in _SERVERS else ""
