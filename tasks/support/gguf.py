"""Which architectures llama.cpp's converter takes here, read from the sources of its copy in auto-round, gguf and transformers."""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tasks import engine_code
from tasks.model import architecture

_CONVERSION = "export/export_to_gguf/conversion"
_SENTENCEPIECE, _BYTE_PAIRS, _CLASS = "sentencepiece", "_set_vocab_gpt2", "tokenizer_class == 'GPT2Tokenizer'"


def obstacle(name: str, folder: Path) -> str:
    """Return why no GGUF can be made of a model of class `name`, or nothing."""
    known = architectures()
    if known and name not in known:
        return f"llama.cpp's converter does not take {name}; it lists {len(known)}, LlamaForCausalLM is one"
    module = _modules().get(name, "")
    own = re.findall(r"^    model_arch = gguf\.MODEL_ARCH\.(\w+)", _class_code(name), re.MULTILINE)
    if unknown := sorted(set(own) & missing(module, "ARCH")) or sorted(missing(module, "TENSOR")):
        return f"llama.cpp's converter for {name} needs a newer gguf than is locked: one that knows {unknown[0]}"
    if needs_sentencepiece(name, folder):
        return f"llama.cpp's converter makes {name}'s vocabulary of tokenizer.model, which the folder lacks"
    if opened := _opened_as(folder):
        return f"transformers, and so llama.cpp's converter, opens this tokenizer as {opened}, which splits text in another way"
    return _other_arithmetic(name, folder)


def _opened_as(folder: Path) -> str:
    """Return the class as which transformers opens the tokenizer, where its way to split text is not tokenizer.json's.

    For some model types (qwen2) that class is fixed, whatever the folder says.
    """
    content, config = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if not content.is_file():
        return ""
    own = str(architecture.read_json(config).get("tokenizer_class", "")) if config.is_file() else ""
    name = fixed_tokenizers().get(str(architecture.read_json(folder / "config.json").get("model_type")), own)
    kind = name.removesuffix("Fast").removesuffix("Tokenizer").lower()
    code = engine_code.read("transformers", f"models/{kind}/tokenization_{kind}.py") if kind.isidentifier() else ""
    split = json.dumps(architecture.read_json(content).get("pre_tokenizer"))
    patterns = [ast.literal_eval(value) for word, value in engine_code.assigned(code) if word == "PRETOKENIZE_REGEX"]
    return name if any(json.dumps(pattern) not in split for pattern in patterns) else ""


@cache
def fixed_tokenizers() -> dict[str, str]:
    """Return model type -> tokenizer class, of the types whose folders transformers does not ask."""
    table = engine_code.read("transformers", "models/auto/tokenization_auto.py")
    values = dict(engine_code.assigned(table))
    fixed = values.get("MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS")
    types = set(ast.literal_eval(fixed)) if fixed else set()
    pairs = re.findall(r"\('(\w+)', '(\w+)'", ast.unparse(values["TOKENIZER_MAPPING_NAMES"]) if fixed else "")
    return {kind: name for kind, name in pairs if kind in types}


def _other_arithmetic(name: str, folder: Path) -> str:
    """Return what llama.cpp would compute otherwise than the config says, without a word; a list of ours, each measured."""
    config = architecture.read_json(folder / "config.json")
    scale, width = config.get("query_pre_attn_scalar"), config.get("head_dim")
    heads = config.get("num_attention_heads") or 1
    if name.startswith(("Gemma2", "Gemma3")) and scale and scale not in (width, config.get("hidden_size", 0) / heads):
        return f"llama.cpp takes the width of a head, {width}, for query_pre_attn_scalar: {scale}, and its logits are others"
    wide = config.get("intermediate_size") not in (None, 4 * config.get("hidden_size", 0))
    if name == "PhiForCausalLM" and (wide or config.get("num_key_value_heads") not in (None, heads)):
        return "llama.cpp's converter takes 4 x hidden_size for Phi's intermediate_size and every head for its num_key_value_heads"
    if name == "Qwen3MoeForCausalLM" and not config.get("norm_topk_prob", False):
        return "llama.cpp makes the weights of the chosen experts sum to one, norm_topk_prob: false says not to"
    return ""


def module_of(name: str) -> str:
    """Return the converter's module for a model of class `name`, or nothing."""
    return _modules().get(name, "")


@cache
def architectures() -> frozenset[str]:
    """Return the class names of the causal text models that the converter lists."""
    return frozenset(name for name in _modules() if name.endswith(("ForCausalLM", "LMHeadModel")))


def missing_kinds(name: str) -> list[str]:
    """Return the architectures that gguf does not know and the converter's module for a model of class `name` speaks of.

    The converter's copy is newer than the gguf that is locked: importing its modules for Qwen and Gemma would fail for
    the sake of models that came later.
    """
    return sorted(missing(_modules().get(name, ""), "ARCH"))


@cache
def missing(module: str, table: str) -> frozenset[str]:
    """Return the members of gguf's `MODEL_ARCH` or `MODEL_TENSOR` that a module, or one that it imports, uses in vain."""
    text = engine_code.read("auto_round", f"{_CONVERSION}/{module}.py") if module else ""
    used = set(re.findall(rf"gguf\.MODEL_{table}\.(\w+)", text))
    known = set(re.findall(r"^    (\w+)\s*=", _gguf_table(table), re.MULTILINE))
    others = {other for other in re.findall(r"^from \.(\w+) import", text, re.MULTILINE) if other != "base"}
    return frozenset(used - known if known else ()).union(*(missing(other, table) for other in others))


def _gguf_table(table: str) -> str:
    text = engine_code.read("gguf", "constants.py")
    return text.partition(f"class MODEL_{table}(")[2].partition("\nclass ")[0]


def needs_sentencepiece(name: str, folder: Path) -> bool:
    """Return whether the converter wants a `tokenizer.model` for this architecture that the folder lacks."""
    text = _vocabulary_code(name)
    if (folder / "tokenizer.model").is_file() or _SENTENCEPIECE not in text:
        return False
    if _CLASS in text:  # Phi 3 and 4: by the name of the tokenizer's class
        config = folder / "tokenizer_config.json"
        return not (config.is_file() and architecture.read_json(config).get("tokenizer_class") == "GPT2Tokenizer")
    return _BYTE_PAIRS not in text


def _vocabulary_code(name: str) -> str:
    """Return the code by which the converter makes an architecture's vocabulary, nothing where it inherits it."""
    return _class_code(name).partition("def set_vocab")[2].partition("\n    def ")[0]


@cache
def _class_code(name: str) -> str:
    """Return the code of the converter's class for an architecture, or nothing."""
    module = _modules().get(name, "")
    text = engine_code.read("auto_round", f"{_CONVERSION}/{module}.py") if module else ""
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef) and any(f"'{name}'" in ast.unparse(mark) for mark in node.decorator_list):
            return ast.unparse(node)
    return ""


@cache
def _modules() -> dict[str, str]:
    """Return class name -> module of the converter."""
    table = engine_code.read("auto_round", f"{_CONVERSION}/__init__.py")
    found: Iterator[dict[str, str]] = (
        ast.literal_eval(value) for name, value in engine_code.assigned(table) if name == "TEXT_MODEL_MAP"
    )
    return next(found, {})
