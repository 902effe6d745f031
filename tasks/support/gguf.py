"""Checks whether llama.cpp's converter supports a model.

The facts are read from the sources of gguf, transformers and auto-round, which contains a copy of the converter.
"""

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
    """Return why a model of class `name` cannot become a GGUF; empty: it can."""
    known = architectures()
    if known and name not in known:
        return f"llama.cpp's converter does not take {name}; it lists {len(known)} classes, such as LlamaForCausalLM"
    module = _modules().get(name, "")
    own = re.findall(r"^    model_arch = gguf\.MODEL_ARCH\.(\w+)", _class_code(name), re.MULTILINE)
    if unknown := sorted(set(own) & missing(module, "ARCH")) or sorted(missing(module, "TENSOR")):
        return (
            f"llama.cpp's converter for {name} needs a newer gguf than the locked version, one that knows {unknown[0]}"
        )
    if needs_sentencepiece(name, folder):
        return f"llama.cpp's converter makes {name}'s vocabulary from tokenizer.model, which the folder lacks"
    if opened := _opened_as(folder):
        return (
            f"transformers, and so llama.cpp's converter, opens this tokenizer as {opened},"
            " which splits text differently from tokenizer.json"
        )
    return _other_arithmetic(name, folder)


def _opened_as(folder: Path) -> str:
    """Return the class with which transformers opens the tokenizer, if it ignores tokenizer.json's split.

    An empty text means that transformers splits text as tokenizer.json says. For some model types (qwen2) the class is
    fixed, and the folder's choice is ignored.
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
    """Return model type -> tokenizer class, for the types whose tokenizer class transformers fixes."""
    table = engine_code.read("transformers", "models/auto/tokenization_auto.py")
    values = dict(engine_code.assigned(table))
    fixed = values.get("MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS")
    types = set(ast.literal_eval(fixed)) if fixed else set()
    pairs = re.findall(r"\('(\w+)', '(\w+)'", ast.unparse(values["TOKENIZER_MAPPING_NAMES"]) if fixed else "")
    return {kind: name for kind, name in pairs if kind in types}


def _other_arithmetic(name: str, folder: Path) -> str:
    """Return which setting of the config llama.cpp would silently ignore; empty: none that is known.

    Each rule of this list was measured.
    """
    config = architecture.read_json(folder / "config.json")
    scale, width = config.get("query_pre_attn_scalar"), config.get("head_dim")
    heads = config.get("num_attention_heads") or 1
    if name.startswith(("Gemma2", "Gemma3")) and scale and scale not in (width, config.get("hidden_size", 0) / heads):
        return f"llama.cpp ignores query_pre_attn_scalar: {scale}, uses head_dim, {width}, and computes other logits"
    wide = config.get("intermediate_size") not in (None, 4 * config.get("hidden_size", 0))
    if name == "PhiForCausalLM" and (wide or config.get("num_key_value_heads") not in (None, heads)):
        return (
            "llama.cpp's converter ignores Phi's intermediate_size and num_key_value_heads;"
            " it assumes 4 x hidden_size and num_attention_heads"
        )
    if name == "Qwen3MoeForCausalLM" and not config.get("norm_topk_prob", False):
        return "llama.cpp ignores norm_topk_prob: false and scales the weights of the chosen experts to the sum 1"
    return ""


def module_of(name: str) -> str:
    """Return the converter's module for a model of class `name`; empty: there is none."""
    return _modules().get(name, "")


@cache
def architectures() -> frozenset[str]:
    """Return the class names of the causal text models that the converter lists."""
    return frozenset(name for name in _modules() if name.endswith(("ForCausalLM", "LMHeadModel")))


def missing_kinds(name: str) -> list[str]:
    """Return the architectures that the converter's module for class `name` mentions and gguf lacks.

    The copy of the converter is newer than the locked gguf. Importing its modules for Qwen and Gemma would fail because
    they mention newer models too.
    """
    return sorted(missing(_modules().get(name, ""), "ARCH"))


@cache
def missing(module: str, table: str) -> frozenset[str]:
    """Return the members that a converter's module uses but gguf's `MODEL_ARCH` or `MODEL_TENSOR` lacks.

    Members used by the modules that it imports count too.
    """
    text = engine_code.read("auto_round", f"{_CONVERSION}/{module}.py") if module else ""
    used = set(re.findall(rf"gguf\.MODEL_{table}\.(\w+)", text))
    known = set(re.findall(r"^    (\w+)\s*=", _gguf_table(table), re.MULTILINE))
    others = {other for other in re.findall(r"^from \.(\w+) import", text, re.MULTILINE) if other != "base"}
    return frozenset(used - known if known else ()).union(*(missing(other, table) for other in others))


def _gguf_table(table: str) -> str:
    text = engine_code.read("gguf", "constants.py")
    return text.partition(f"class MODEL_{table}(")[2].partition("\nclass ")[0]


def needs_sentencepiece(name: str, folder: Path) -> bool:
    """Return whether the converter needs a `tokenizer.model` for class `name` and the folder has none."""
    text = _vocabulary_code(name)
    if (folder / "tokenizer.model").is_file() or _SENTENCEPIECE not in text:
        return False
    if _CLASS in text:  # Phi 3 and 4: the name of the tokenizer's class decides
        config = folder / "tokenizer_config.json"
        return not (config.is_file() and architecture.read_json(config).get("tokenizer_class") == "GPT2Tokenizer")
    return _BYTE_PAIRS not in text


def _vocabulary_code(name: str) -> str:
    """Return the converter's own code for an architecture's vocabulary; empty: the code is inherited."""
    return _class_code(name).partition("def set_vocab")[2].partition("\n    def ")[0]


@cache
def _class_code(name: str) -> str:
    """Return the code of the converter's class for an architecture; empty: there is none."""
    module = _modules().get(name, "")
    text = engine_code.read("auto_round", f"{_CONVERSION}/{module}.py") if module else ""
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef) and any(f"'{name}'" in ast.unparse(mark) for mark in node.decorator_list):
            return ast.unparse(node)
    return ""


@cache
def _modules() -> dict[str, str]:
    """Return the model's class name -> module of the converter."""
    table = engine_code.read("auto_round", f"{_CONVERSION}/__init__.py")
    found: Iterator[dict[str, str]] = (
        ast.literal_eval(value) for name, value in engine_code.assigned(table) if name == "TEXT_MODEL_MAP"
    )
    return next(found, {})
