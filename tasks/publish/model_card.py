"""The model card: the README.md of a published folder, with the front matter that a model hub reads.

The card is a pure function of the manifest. It contains no time, no run and no digest of the manifest itself, so equal
inputs and decisions give equal bytes. It says what was measured here and marks what was not. It has no `model-index`,
because readers compare those figures across models, and the card's figures hold only against this baseline on these windows.
"""

import re
from typing import Any

import yaml

from quantmill.recipe.methods import METHODS, Method
from quantmill.recipe.schemes import hub_name
from quantmill.records import loading, selection
from quantmill.records.manifest import CARD_PATH, Manifest
from quantmill.records.selection import packer
from tasks.model.config_forms import MISSES
from tasks.report import plain, row

ORIGINAL = "README.original.md"
"""The file name under which the original card of an imported checkpoint is published."""
_LICENSES = {
    "apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "zlib", "unlicense", "wtfpl",
    "ms-pl", "artistic-2.0", "afl-3.0", "ecl-2.0", "bsl-1.0", "mpl-2.0", "epl-2.0", "eupl-1.2", "osl-3.0", "gpl", "gpl-2.0",
    "gpl-3.0", "agpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0",
    "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "cdla-permissive-2.0", "odc-by",
    "openrail", "openrail++", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "gemma", "other",
}  # fmt: skip
"""Licence names that the hub knows. It refuses a card with an unknown name, so other licences are `other` with a name."""


def model_card(manifest: Manifest, loader: str = "") -> str:
    """Return the model card for a manifest.

    Args:
        manifest: the manifest; the entry of the card itself is ignored.
        loader: the loading section of the artifact's own README.md (HQQ); empty: the card's own section.
    """
    method = METHODS[packer(manifest)]
    model, _, variant = manifest.name.partition("/")
    parts = [
        f"# {model}: {variant}",
        _summary(manifest, method),
        _figures(manifest),
        f"## How to load\n\n{loader.strip() or _loading(manifest, method)}{_missed(manifest)}",
        f"## Calibration\n\n{_text(manifest.calibration) if manifest.calibration else 'None: the method needs no text.'}",
        f"## Changes on the way in\n\n{_list(manifest.model.notes) or 'None.'}",
        f"## Gates passed\n\n{_gates(manifest)}",
        f"## Licence\n\n{_license(manifest)}",
        f"## Provenance\n\n{_provenance(manifest)}",
    ]
    front = yaml.safe_dump(_front(manifest, method), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n"


def _front(manifest: Manifest, method: Method) -> dict[str, Any]:
    """Return the front matter; only a source on the hub gives a `base_model`, which is a name on the hub."""
    said: dict[str, Any] = {}
    license_name = manifest.license.lower()
    if license_name in _LICENSES:
        said["license"] = license_name
    elif license_name:
        said |= {
            "license": "other",
            "license_name": re.sub(r"[^a-z0-9.-]+", "-", license_name).strip("-")[:96] or "other",
        }
    if base := hub_name(manifest.model.uri):
        said["base_model"] = base
        if method.name != "baseline":
            said["base_model_relation"] = "quantized"
    said |= {
        "library_name": (manifest.evaluation.runtime or "transformers").replace("_", "."),
        "pipeline_tag": "text-generation",
    }
    kind = str(manifest.variant.get("type") or "").lower()
    tags = [method.name, f"{manifest.variant['bits']}-bit", kind, manifest.variant["format"], "quantmill"]
    return said | {"tags": list(dict.fromkeys(tag for tag in tags if tag))}


def _summary(manifest: Manifest, method: Method) -> str:
    said = [mark for mark in manifest.evaluation.marks if not mark.startswith(MISSES)]
    marks = f"\n\nOf its figures: {plain(', '.join(said))}." if said else ""
    about = f"{plain(method.title)} Source of the method: {plain(method.source)}.{marks}"
    if checkpoint := manifest.variant.get("checkpoint"):
        return (
            f"A checkpoint of {plain(_source(manifest))} that was quantized elsewhere with `{method.name}`, its files as"
            f" they were; what it said of itself is `{ORIGINAL}`, where it said anything. Digest of its files:"
            f" `{checkpoint}`.\n\n{about}"
        )
    choices = {name: manifest.variant[name] for name in manifest.variant if name in ("type", *_options(method))}
    chosen = [f"{manifest.variant['bits']} bits", *(f"{name} {str(value).lower()}" for name, value in choices.items())]
    chosen += [f"{rule['match']} {rule['bits']} bits" for rule in manifest.variant.get("layers", ())]
    return f"{plain(_source(manifest))} through `{method.name}` ({plain(', '.join(chosen))}).\n\n{about}"


def _options(method: Method) -> list[str]:
    return [option.name for option in method.options]


def _figures(manifest: Manifest) -> str:
    """Return the table of figures beside the baseline's, and on what text and machine they were measured."""
    seen, base = manifest.evaluation, manifest.evaluation.baseline
    quality, speed = seen.metrics, seen.speed
    size = sum(file.size_bytes for file in manifest.files if file.path != CARD_PATH)

    def line(title: str, name: str, value: float | None, beside: float | None = None) -> str:
        return row([title, *(selection.FIGURES[name].shown(figure) for figure in (value, beside))])

    def shared(title: str, name: str, value: float | None) -> str:
        return line(title, name, value, getattr(base, name) if base else None)

    table = [
        row(["", manifest.name.rpartition("/")[2], base.name if base else "baseline"]),
        "|:--|--:|--:|",
        shared("perplexity", "perplexity", quality.perplexity),
        line("perplexity ratio", "perplexity_ratio", seen.perplexity_ratio, 1.0),
        line("mean KL from the baseline, nats", "mean_kl", quality.mean_kl),
        line("99th percentile of KL, nats", "p99_kl", quality.p99_kl),
        line("same top token", "top1_agreement", quality.top1_agreement),
        shared("size, MB", "size_bytes", size),
        shared("bits per weight", "bits_per_weight", seen.bits_per_weight),
        shared("decode, tokens/s", "decode_tokens_per_s", speed.decode_tokens_per_s),
        shared("prefill, tokens/s", "prefill_tokens_per_s", speed.prefill_tokens_per_s),
        shared("peak memory, MB", "peak_memory_bytes", speed.peak_memory_bytes),
    ]
    text = _text(seen.windows) if seen.windows else f"Windows {seen.suite}."
    said = (
        f"Quality over {quality.scored_tokens} tokens, computed in {quality.compute_dtype}. {text}\n\nSpeed and memory on"
        f" {plain(speed.hardware)}, {speed.threads} threads, {plain(speed.kernel)}, {speed.compute_dtype}: one sequence, greedy,"
        f" {speed.prompt_tokens} tokens read and {speed.generated_tokens} written, median of {speed.repeats}."
    )
    if selection.BUSY in seen.marks:
        said += " The machine was busy with other work meanwhile: the speeds compare with nothing."
    if base and base.hardware and (base.hardware, base.threads) != (speed.hardware, speed.threads):
        said += f" The baseline's were measured on {plain(base.hardware)}, {base.threads} threads: they do not compare."
    return "\n".join(table) + "\n\n" + said


def _loading(manifest: Manifest, method: Method) -> str:
    """Return how the library that measured the variant loads the folder, and which programs load it."""
    runtime = selection.library(manifest)
    packages = loading.PACKAGES.get(runtime, {*method.engines, "transformers"})
    made = manifest.toolchain
    wanted = [f"{name}=={made[name]}" if name in made else name for name in sorted(packages)]
    install = f"In this folder, after `pip install {' '.join(wanted)}`:\n\n"
    code = f"{install}```python\n{loading.script(manifest)}```"
    lines = "\n".join(f"- {line}" for line in loading.programs(manifest))
    return f"{code}\n\nPrograms, with what was seen or read of each:\n\n{lines}" if lines else code


def _missed(manifest: Manifest) -> str:
    """Return what readers of transformers 4's form miss in a config.json that was published unchanged."""
    missed = [mark.removeprefix(MISSES) for mark in manifest.evaluation.marks if mark.startswith(MISSES)]
    if not missed:
        return ""
    return (
        f"\n\nIts config.json is as it came, in the form of transformers 5. It lacks {plain(missed[0])}: transformers 4 and"
        " others that read the older form take a default in its place without a word, or refuse the folder."
    )


def _text(said: dict[str, Any]) -> str:
    """Return the description of the text and the windows of a token set."""
    mixed = said.get("mix") or ()
    names = [f"{part['source']} {part.get('weight', 1):g}" for part in mixed] or [str(said["source"])]
    return (
        f"Text: {plain(', '.join(names))}; {said['samples']} windows of {said['sequence_length']} tokens, seed {said['seed']}."
        f" Digest of the windows: `{said['sha256']}`."
    )


def _gates(manifest: Manifest) -> str:
    """Return the limits that the variant kept, without the huge limits that do not bind."""
    return _list([f"{name} {limit:g}" for name, limit in manifest.evaluation.gate.items() if limit < 1e6]) or "None."


def _license(manifest: Manifest) -> str:
    if not manifest.license:
        return "The source states none. The base model's licence holds for this variant too."
    return f"{plain(manifest.license)}, as the source states it. The base model's licence holds for this variant too."


def _provenance(manifest: Manifest) -> str:
    made = ", ".join(f"{name} {version}" for name, version in sorted(manifest.toolchain.items()))
    facts = [
        f"Source: {plain(_source(manifest))}",
        f"Digest of the source's files: `{manifest.model.revision}`",
        f"Key of the artifact: `{manifest.key}`",
        f"Made with {plain(made)}",
        f"Made on {plain(manifest.hardware)}",
    ]
    check = (
        "`quantmill verify .` checks every byte of a folder that was pulled or exported against its manifest,"
        " `.quantmill/manifest.json`, and with a keyring who signed it."
    )
    return "\n".join(f"- {fact}" for fact in facts) + f"\n\n{check}"


def _source(manifest: Manifest) -> str:
    """Return the URI of the source; of a local path, only the last part."""
    uri = manifest.model.uri
    return uri if "://" in uri else re.split(r"[/\\]", uri.rstrip("/\\"))[-1]


def _list(texts: Any) -> str:
    return "\n".join(f"- {plain(text)}" for text in texts)
