"""Reads a model's architecture from config or GGUF header; rejects models that cannot be quantized."""

from pathlib import Path
from typing import Any

from quantmill.errors import SourceError, VerificationError
from quantmill.files import contents
from quantmill.recipe.packing import Packing
from quantmill.records.artifact import Architecture
from tasks.model import packing

_INNER = ("intermediate_size", "ffn_dim", "n_inner")
_POSITIONS = ("max_position_embeddings", "n_positions")
_INNER_OF_EXPERTS = ("moe_intermediate_size", "shared_expert_intermediate_size")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; SourceError if the file holds no JSON object or is too large."""
    try:
        return contents.read_json(path)
    except VerificationError as error:
        raise SourceError(f"{path.name}: {error}") from error


def mapping(value: object, path: Path) -> dict[str, Any]:
    """Return `value`, which comes from the file at `path`; SourceError if it is no JSON object."""
    if not isinstance(value, dict):
        raise SourceError(f"{path.name}: not a JSON object but {type(value).__name__}")
    return value


def read_config(folder: Path) -> dict[str, Any]:
    """Return `config.json`; the fields of a `text_config` override those of the whole model."""
    config = read_json(folder / "config.json")
    return config | config["text_config"] if isinstance(config.get("text_config"), dict) else config


def of_config(folder: Path) -> Architecture:
    """Return the architecture that `config.json` states.

    Raises:
        SourceError: the model is no causal language model, or its weights are packed in an unknown way.
    """
    config = read_config(folder)
    packed = packing.of_config(config)
    names = config.get("architectures")
    names = names if isinstance(names, list) and names else [""]
    if not str(names[0]).endswith(("ForCausalLM", "LMHeadModel")):
        raise SourceError(f"{names[0] or 'unknown architecture'}: a causal language model (*ForCausalLM) is needed")
    return _architecture(
        name=str(names[0]),
        model_type=str(config.get("model_type", "")),
        layers=config.get("num_hidden_layers", config.get("n_layer")),
        hidden=config.get("hidden_size", config.get("n_embd")),
        inner=_first(config, _INNER),
        attention=_product(config.get("num_attention_heads"), config.get("head_dim")),
        vocabulary=config.get("vocab_size"),
        more=tuple(config.get(name) for name in _INNER_OF_EXPERTS),
        experts=_first(config, _EXPERTS),
        packed=packed,
        positions=_first(config, _POSITIONS),
    )


def turns_by_layer_type(folder: Path) -> bool:
    """Return whether the rotary embedding depends on the layer type, as in Gemma 3."""
    config = read_config(folder)
    rope = config.get("rope_parameters")
    nested = isinstance(rope, dict) and any(isinstance(part, dict) for part in rope.values())
    return nested or "rope_local_base_freq" in config  # the name in transformers 4


def _first(config: dict[str, Any], names: tuple[str, ...]) -> object:
    """Return the value of the first of the fields that is set in the config; None if none is."""
    return next((config[name] for name in names if config.get(name)), None)


def _product(heads: object, width: object) -> int | None:
    return heads * width if isinstance(heads, int) and isinstance(width, int) else None


def _architecture(
    name: str,
    model_type: str,
    layers: object,
    hidden: object,
    inner: object,
    attention: object,
    vocabulary: object,
    experts: object,
    packed: Packing | None,
    more: tuple[object, ...] = (),
    positions: object = 0,
) -> Architecture:
    for field, value in {"layers": layers, "hidden size": hidden, "vocabulary size": vocabulary}.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SourceError(f"the config states no {field}: {value!r}")
    if isinstance(experts, int) and experts < 0:
        raise SourceError(f"the config states {experts} experts")
    assert isinstance(layers, int) and isinstance(hidden, int) and isinstance(vocabulary, int)  # for the type checker
    widths = {
        hidden,
        inner if isinstance(inner, int) else 4 * hidden,
        attention if isinstance(attention, int) else hidden,
        *(width for width in more if isinstance(width, int) and width),
    }
    return Architecture(
        name=name,
        model_type=model_type,
        layers=layers,
        hidden_size=hidden,
        vocabulary_size=vocabulary,
        linear_inputs=tuple(sorted(widths)),
        experts=experts if isinstance(experts, int) else 0,
        positions=max(0, positions) if isinstance(positions, int) else 0,
        packing=packed,
    )


def of_gguf(path: Path) -> tuple[Architecture, str]:
    """Return the architecture and the licence that a GGUF header states; SourceError for an encoder."""
    from tasks.model.gguf import read_gguf
    from tasks.model.gguf_blocks import length

    reader = read_gguf(path, vocabulary=False)
    fields = reader.fields

    def read(key: str) -> Any:
        return fields[key].contents() if key in fields else None

    kind = str(read("general.architecture"))
    if read(f"{kind}.attention.causal") is False or read(f"{kind}.pooling_type") is not None:
        raise SourceError(f"{path.name}: {kind} is an encoder; a causal language model is needed")
    tokens = fields.get("tokenizer.ggml.tokens")
    architecture = _architecture(
        name=kind,
        model_type=kind,
        layers=read(f"{kind}.block_count"),
        hidden=read(f"{kind}.embedding_length"),
        inner=read(f"{kind}.feed_forward_length"),
        attention=_product(read(f"{kind}.attention.head_count"), read(f"{kind}.attention.key_length")),
        vocabulary=length(tokens) if tokens else None,
        experts=read(f"{kind}.expert_count"),
        positions=read(f"{kind}.context_length"),
        packed=packing.of_gguf(read("general.file_type"), [tensor.tensor_type.name for tensor in reader.tensors]),
    )
    return architecture, str(read("general.license") or "")
