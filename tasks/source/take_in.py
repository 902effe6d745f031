"""Copies a local model folder: the allowed files, every float weight in bf16, no reference to code."""

import json
import shutil
from pathlib import Path
from typing import Any

from quantmill.errors import SourceError
from quantmill.files import contents
from tasks.sandbox import Progress


def take_in(source: Path, files: list[str], out: Path, progress: Progress) -> list[str]:
    """Copy `files` from `source` into `out` and return a note for each change that was made."""
    notes: list[str] = []
    for index, name in enumerate(files):
        target = out / (contents.licence_name(name) if contents.is_licence(name) else name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            notes += _copy_weights(source / name, target)
        elif name.endswith(".json") and b'"auto_map"' in (source / name).read_bytes():
            target.write_text(_without_code(json.loads((source / name).read_text(encoding="utf-8"))), encoding="utf-8")
            notes.append(f"auto_map removed from {name}")
        else:
            shutil.copyfile(source / name, target)
        progress("take in", index + 1, len(files))
    notes += _template_apart(out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    if any("rounded" in note for note in notes):
        config.pop("torch_dtype", None)
        (out / "config.json").write_text(_pretty(config | {"dtype": "bfloat16"}), encoding="utf-8")
    return list(dict.fromkeys(notes))


def _copy_weights(source: Path, target: Path) -> list[str]:
    """Copy a safetensors file with its floats rounded to bf16; return a note if any had another type.

    Raises:
        SourceError: a tensor holds NaN or Inf after rounding.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(source, "pt") as file:
        types = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (no mapping)
        rounded = {}
        for name in file.keys():  # noqa: SIM118
            tensor = file.get_tensor(name)
            rounded[name] = tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
            if tensor.is_floating_point() and not torch.isfinite(rounded[name]).all():
                raise SourceError(f"{source.name}: {name} holds NaN or Inf")
    if not types & {"F32", "F16", "F64"}:
        shutil.copyfile(source, target)
        return []
    save_file(rounded, target, metadata={"format": "pt"})
    return [f"weights rounded from {', '.join(sorted(types - {'BF16'}))} to BF16"]


def _template_apart(out: Path) -> list[str]:
    """Move a chat template from tokenizer_config.json to chat_template.jinja, as transformers does.

    If a folder has both, libraries disagree about which template applies; transformers uses the file, so the file stays.
    Several named templates are left unchanged.
    """
    path = out / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    template = settings.get("chat_template")
    if not isinstance(template, str):
        return []
    del settings["chat_template"]
    path.write_text(_pretty(settings), encoding="utf-8")
    if not (out / "chat_template.jinja").exists():
        (out / "chat_template.jinja").write_text(template, encoding="utf-8")
    return ["chat template moved from tokenizer_config.json into chat_template.jinja"]


def _without_code(value: Any) -> str:
    def strip(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: strip(inner) for key, inner in part.items() if key != "auto_map"}
        return [strip(inner) for inner in part] if isinstance(part, list) else part

    return _pretty(strip(value))


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
