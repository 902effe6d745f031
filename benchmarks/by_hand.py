"""The same line by hand: what an engineer would write with the bare libraries, as a reference for our figures.

    python benchmarks/by_hand.py --source MODEL --calibration CAL.safetensors --evaluation EVAL.safetensors --out DIR
        [--variants NAME ...] [--summary summary.json] [--artifacts DIR2] [--compare-only]

It shares no code with the project, on purpose. MODEL is a Hugging Face folder (bf16 safetensors); the token sets are safetensors with one
int32 tensor `input_ids` of (windows, sequence length). Each library runs in one process of its own, which makes its variants one after
another and measures each from the saved folder; there is one baseline pass and one GGUF conversion. DIR/by_hand.json holds the figures,
DIR/<variant>/ the artifacts. `quantize_s` is load + quantize + save and `evaluate_s` is load + forward + metrics, without imports;
`process_s` is what the clock on the wall says. `size_bytes` counts the weight files.

With --summary (the product's RunSummary) the exit code is 1 where a perplexity differs by more than 0.1 %. With --artifacts (DIR2/<variant>/
holds the product's artifacts) the tensors are compared too: name, type, shape, bytes.
"""

import argparse
import contextlib
import ctypes
import importlib.metadata
import json
import logging
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

# One process each, in this order. The first leaves the baseline's logits on disk for the others.
LIBRARIES = {
    "transformers": ["baseline"],
    "bitsandbytes": ["bitsandbytes-int8", "bitsandbytes-nf4"],
    "gptqmodel": ["gptq-4bit-g64"],
    "llama.cpp": ["gguf-f32", "gguf-q8_0", "gguf-q4_k_m", "gguf-q2_k"],
}
GGUF_TYPES = {
    "gguf-f32": "LLAMA_FTYPE_ALL_F32",
    "gguf-q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0",
    "gguf-q4_k_m": "LLAMA_FTYPE_MOSTLY_Q4_K_M",
    "gguf-q2_k": "LLAMA_FTYPE_MOSTLY_Q2_K",
}
PACKAGES = ["torch", "transformers", "bitsandbytes", "gptqmodel", "auto-round", "gguf", "llama-cpp-python"]
PERPLEXITY_TOLERANCE = 1e-3  # relative, against the product
F32_TOLERANCE = (1e-4, 1e-5)  # perplexity (relative) and mean KL of two runtimes on the same fp32 weights
Forward = Callable[[np.ndarray], Any]  # one window of ids -> fp32 logits of every position but the last


# --- what is measured, the same for all ---------------------------------------------------------------------------


def token_windows(path: Path) -> np.ndarray:
    from safetensors.numpy import load_file

    return load_file(path)["input_ids"]


def evaluate(forward: Forward, windows: np.ndarray, logits_file: Path, *, record: bool = False) -> dict[str, float]:
    """Score ids 1..n-1 of each window and compare with the baseline's logits (`record` writes them instead)."""
    import torch

    reference: np.ndarray | None = None if record else np.load(logits_file, mmap_mode="r")
    nll, kl, agree = [], [], []
    for index, window in enumerate(windows):
        logits = forward(window)
        if record:
            if reference is None:
                shape = (len(windows), *logits.shape)
                reference = np.lib.format.open_memmap(logits_file, mode="w+", dtype=np.float32, shape=shape)
            reference[index] = logits.numpy()
        targets = torch.from_numpy(window[1:].astype(np.int64))
        for begin in range(0, len(targets), 64):  # 64 rows of a 50k vocabulary in float64 are 25 MB
            part = slice(begin, begin + 64)
            log_q = torch.log_softmax(logits[part].double(), dim=-1)
            log_p = torch.log_softmax(torch.from_numpy(np.array(reference[index, part])).double(), dim=-1)
            nll.append(-log_q.gather(1, targets[part, None])[:, 0])
            kl.append((log_p.exp() * (log_p - log_q)).sum(dim=-1))
            agree.append(log_p.argmax(dim=-1) == log_q.argmax(dim=-1))
    divergence = torch.cat(kl).numpy()
    return {
        "perplexity": math.exp(torch.cat(nll).mean().item()),
        "mean_kl": float(divergence.mean()),
        "p99_kl": float(np.quantile(divergence, 0.99)),
        "top1_agreement": torch.cat(agree).double().mean().item(),
    }


def transformers_forward(folder: Path) -> Forward:
    """The saved folder with fp32 arithmetic wherever the method leaves a choice."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu").eval()
    # transformers ignores `dtype` for what is already quantized: embeddings and norms, so every activation, would stay bf16.
    for parameter in model.parameters():
        if parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.compute_dtype, module.compute_type_is_set = torch.float32, True
            module.support_avx512bf16_for_cpu = False  # or CPUs that have it compute in bf16, and others do not

    def forward(window: np.ndarray) -> Any:
        with torch.inference_mode():
            ids = torch.from_numpy(window[None].astype(np.int64))
            return model(input_ids=ids, use_cache=False).logits[0, :-1].float()

    return forward


def llama_cpp_forward(file: Path, length: int) -> Forward:
    import llama_cpp
    import torch

    size = {"n_ctx": length, "n_batch": length, "n_ubatch": length}
    cache = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}  # the default is f16
    model = llama_cpp.Llama(str(file), **size, **cache, logits_all=True, verbose=False)

    def forward(window: np.ndarray) -> Any:
        model.reset()
        model.eval(window.tolist())
        return torch.from_numpy(model.scores[: length - 1].copy())

    return forward


# --- how each variant is made -------------------------------------------------------------------------------------


def quantize_bitsandbytes(name: str, source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    if name == "bitsandbytes-int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.bfloat16, device_map="cpu", quantization_config=config
    )
    model.save_pretrained(folder)


def quantize_gptq(source: Path, folder: Path, calibration: np.ndarray) -> None:
    import torch
    from gptqmodel import GPTQModel, QuantizeConfig

    config = QuantizeConfig(bits=4, group_size=64, sym=True, desc_act=False, damp_percent=0.05)
    windows = [torch.from_numpy(window.astype(np.int64)) for window in calibration]
    model = GPTQModel.load(str(source), config)
    model.quantize([{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in windows], batch_size=1)
    model.save(str(folder))


def convert_to_gguf(source: Path, file: Path) -> None:
    """Run llama.cpp's converter, which auto-round carries, once: BF16."""
    import gguf
    from auto_round.export.export_to_gguf.llama_cpp_conversion import get_conversion

    architecture = json.loads((source / "config.json").read_text())["architectures"][0]
    converter = get_conversion(source, auto_update=False).get_model_class(architecture)
    converter(source, gguf.LlamaFileType.MOSTLY_BF16, file, use_temp_file=False, eager=False).write()


def quantize_gguf(name: str, converted: Path, folder: Path) -> None:
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, GGUF_TYPES[name])
    target = folder / "model.gguf"
    if llama_cpp.llama_model_quantize(str(converted).encode(), str(target).encode(), ctypes.byref(params)):
        raise RuntimeError(f"{name}: llama_model_quantize failed")


# --- one process per library --------------------------------------------------------------------------------------


@contextlib.contextmanager
def clock(into: dict[str, Any], key: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    into[key] = round(time.perf_counter() - start, 3)


def run_library(library: str, options: argparse.Namespace) -> dict[str, Any]:
    """Make and measure the chosen variants of one library in this process."""
    logits_file, results = options.out / "baseline_logits.npy", {}
    windows = token_windows(options.evaluation)
    for name in (name for name in LIBRARIES[library] if name == "baseline" or name in options.variants):
        folder, figures = options.out / name, results.setdefault(name, {})
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with clock(figures, "quantize_s"):
            if library == "bitsandbytes":
                quantize_bitsandbytes(name, options.source, folder)
            elif library == "gptqmodel":
                quantize_gptq(options.source, folder, token_windows(options.calibration))
            elif library == "llama.cpp":
                quantize_gguf(name, options.out / "converted.gguf", folder)
        with clock(figures, "evaluate_s"):
            if library == "llama.cpp":
                forward = llama_cpp_forward(folder / "model.gguf", windows.shape[1])
            else:
                forward = transformers_forward(options.source if name == "baseline" else folder)
            figures |= evaluate(forward, windows, logits_file, record=name == "baseline")
        weights = options.source if name == "baseline" else folder
        figures["size_bytes"] = sum(
            f.stat().st_size for f in weights.iterdir() if f.suffix in (".safetensors", ".gguf")
        )
    return results


def spawn(step: str, options: argparse.Namespace) -> float:
    """Run one step in a process of its own, its output in DIR/<step>.log; return its seconds on the wall."""
    command = [sys.executable, str(Path(__file__).resolve()), "--step", step, "--variants", *options.variants]
    for key in ("source", "calibration", "evaluation", "out"):
        command += [f"--{key}", str(getattr(options, key).resolve())]
    # gptqmodel wants two workers whatever the machine has, and compiles C++ at run time if it may.
    quiet = {"GPTQMODEL_CPU_WORKERS": "2", "GPTQMODEL_DISABLE_PACK_EXT": "1", "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    with (options.out / f"{step}.log").open("w") as log:  # in `out`: gptqmodel leaves a logs/ folder where it runs
        code = subprocess.run(command, stdout=log, stderr=log, cwd=options.out, env=os.environ | quiet).returncode
    if code:
        tail = (options.out / f"{step}.log").read_text(errors="replace")[-2000:]
        raise SystemExit(f"{step} failed with exit code {code}:\n{tail}")
    return round(time.perf_counter() - start, 1)


# --- against the product ------------------------------------------------------------------------------------------


def read_tensors(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Return each tensor's type and shape, and its bytes."""
    tensors = {}
    for file in sorted(folder.rglob("*.safetensors")):
        raw = file.read_bytes()
        header_size = int.from_bytes(raw[:8], "little")
        for name, entry in json.loads(raw[8 : 8 + header_size]).items():
            if name != "__metadata__":
                begin, end = (8 + header_size + offset for offset in entry["data_offsets"])
                tensors[name] = (f"{entry['dtype']} {entry['shape']}", raw[begin:end])
    for file in sorted(folder.rglob("*.gguf")):
        from gguf import GGUFReader

        for tensor in GGUFReader(file).tensors:
            tensors[tensor.name] = (f"{tensor.tensor_type.name} {tensor.shape.tolist()}", tensor.data.tobytes())
    return tensors


def compare_artifacts(names: list[str], ours: Path, theirs: Path) -> None:
    for name in names:
        if not (theirs / name).is_dir():
            print(f"{name:20} no artifact to compare")
            continue
        a, b = read_tensors(ours / name), read_tensors(theirs / name)
        differing = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
        verdict = f"{len(differing)} differ, first {differing[0]}" if differing else "equal"
        print(f"{name:20} {len(a)} tensors: {verdict}")


def compare_summary(variants: dict[str, dict[str, Any]], summary: dict[str, Any]) -> bool:
    """Print both perplexities side by side; return whether all agree."""
    product = {"baseline": summary["baseline"]} | {row["name"]: row for row in summary["variants"]}
    agree = True
    print(f"\n{'variant':20} {'by hand':>12} {'product':>12} {'difference':>11}")
    for name, figures in variants.items():
        theirs = product.get(name, {}).get("perplexity")
        if theirs is None:
            print(f"{name:20} {figures['perplexity']:12.6f} {'-':>12}")
            continue
        difference = theirs / figures["perplexity"] - 1
        agree &= abs(difference) <= PERPLEXITY_TOLERANCE
        print(f"{name:20} {figures['perplexity']:12.6f} {theirs:12.6f} {difference:+10.5%}")
    return agree


def main() -> int:
    every = [name for names in LIBRARIES.values() for name in names]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for key in ("source", "calibration", "evaluation", "out"):
        parser.add_argument(f"--{key}", type=Path, required=True)
    parser.add_argument("--variants", nargs="*", choices=every, default=every)
    parser.add_argument("--summary", type=Path)
    parser.add_argument("--artifacts", type=Path)
    parser.add_argument("--compare-only", action="store_true", help="compare with the figures that DIR already holds")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()

    if options.step == "convert":
        convert_to_gguf(options.source, options.out / "converted.gguf")
        return 0
    if options.step:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # int8 warns once per matrix product
        results = run_library(options.step, options)
        (options.out / f"{options.step}.json").write_text(json.dumps(results))
        return 0

    report_file = options.out / "by_hand.json"
    if not options.compare_only:
        options.out.mkdir(parents=True, exist_ok=True)
        report: dict[str, Any] = {"versions": {name: importlib.metadata.version(name) for name in PACKAGES}}
        report |= {"process_s": {}, "variants": {}}
        for library, names in LIBRARIES.items():
            if library != "transformers" and not set(names) & set(options.variants):
                continue
            if library == "llama.cpp":
                report["process_s"]["convert"] = spawn("convert", options)
            report["process_s"][library] = spawn(library, options)
            report["variants"] |= json.loads((options.out / f"{library}.json").read_text())
        report["total_s"] = round(sum(report["process_s"].values()), 1)
        report_file.write_text(json.dumps(report, indent=2) + "\n")
    report = json.loads(report_file.read_text())
    variants = report["variants"]

    print(
        f"{'variant':20} {'perplexity':>12} {'mean KL':>10} {'p99 KL':>10} {'top-1':>8} {'make s':>8} {'eval s':>8} {'MB':>7}"
    )
    for name, f in variants.items():
        print(
            f"{name:20} {f['perplexity']:12.6f} {f['mean_kl']:10.3g} {f['p99_kl']:10.3g} {f['top1_agreement']:8.2%} "
            f"{f['quantize_s']:8.1f} {f['evaluate_s']:8.1f} {f['size_bytes'] / 1e6:7.1f}"
        )
    print(f"{report['total_s']:.0f} s in all: {report['process_s']}")

    ok = True
    if "gguf-f32" in variants:
        drift = abs(variants["gguf-f32"]["perplexity"] / variants["baseline"]["perplexity"] - 1)
        ok = drift <= F32_TOLERANCE[0] and variants["gguf-f32"]["mean_kl"] <= F32_TOLERANCE[1]
        print(f"llama.cpp F32 against transformers fp32: {'agree' if ok else 'DISAGREE'} (perplexity {drift:.2e})")
    if options.artifacts:
        compare_artifacts([name for name in variants if name != "baseline"], options.out, options.artifacts)
    if options.summary:
        ok &= compare_summary(variants, json.loads(options.summary.read_text()))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
