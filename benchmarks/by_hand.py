"""Does the line's work by hand, with the bare libraries, as a reference for the project's figures.

    python benchmarks/by_hand.py --source MODEL --calibration CAL.safetensors --evaluation EVAL.safetensors
        --out DIR [--variants NAME ...] [--threads 2] [--summary FILE] [--artifacts DIR2] [--compare-only]

It shares no code with the project, on purpose. MODEL is a Hugging Face folder (bf16 safetensors), a token set
is a safetensors file with an int32 tensor `input_ids` (windows, sequence length). One process per library makes
its variants and measures each from its saved folder; one baseline pass, one GGUF conversion. DIR/by_hand.json
holds the figures, DIR/<variant>/ the artifacts, DIR/<step>.log the libraries' output. `quantize_s` is load +
quantize + save, `evaluate_s` load + forward + metrics, both without imports; `process_s` is wall-clock time;
`size_bytes` counts weight files. An interrupted run continues: figures of the same inputs in DIR/by_hand.json are kept.

With --summary (the product's RunSummary) the exit code is 1 if a perplexity differs by more than 0.1 %.
With --artifacts the tensors of the product's artifacts in DIR2/<variant>/ are compared: name, type, shape, bytes.
"""

import argparse
import contextlib
import ctypes
import hashlib
import importlib
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

# One process each, in this order: the first leaves the baseline's logits on disk for the others.
LIBRARIES = {
    "transformers": ["baseline"],
    "bitsandbytes": ["bitsandbytes-int8", "bitsandbytes-nf4"],
    "hqq": ["hqq-8bit-g64", "hqq-4bit-g64"],
    "gptqmodel": ["gptq-4bit-g64"],
    "auto-round": ["autoround-4bit-g64-i20-lr0.01-mlr0.02-s128", "rounded-4bit-g64"],
    "llama.cpp": ["gguf-f32", "gguf-q8_0", "gguf-q6_k", "gguf-q4_k_m", "gguf-q4_0", "gguf-q2_k"],
}
MODULES = ["torch", "bitsandbytes", "hqq.core.quantize", "gptqmodel", "auto_round", "llama_cpp"]
IMPORTS = dict(zip(LIBRARIES, MODULES, strict=True))
PACKAGES = ["torch", "transformers", "bitsandbytes", "hqq", "gptqmodel", "auto-round", "gguf", "llama-cpp-python"]
AUTOROUND = {"iters": 20, "lr": 0.01, "minmax_lr": 0.02, "seqlen": 128, "batch_size": 8}  # the demo recipe's
ROUNDED = {"iters": 0, "disable_opt_rtn": True}  # round to nearest on the same grid: learning should beat this
HQQ_TENSORS = (".weight", ".W_q", ".scale", ".zero")
PERPLEXITY_TOLERANCE = 1e-3  # relative, against the product
F32_TOLERANCE = (1e-4, 1e-5)  # perplexity (relative) and mean KL of two runtimes on the same fp32 weights
Forward = Callable[[np.ndarray], Any]  # one window of ids -> fp32 logits of every position but the last


# --- how each variant is made ---


def quantize_bitsandbytes(name: str, source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    int8 = BitsAndBytesConfig(load_in_8bit=True)
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    config = int8 if name == "bitsandbytes-int8" else nf4
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.bfloat16, device_map="cpu", quantization_config=config
    )
    model.save_pretrained(folder)


def quantize_hqq(name: str, source: Path, folder: Path) -> None:
    """Replace the linear layers of every block, and save as hqq does: a pickle."""
    import torch
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
    from hqq.models.hf.base import AutoHQQHFModel
    from transformers import AutoModelForCausalLM

    config = BaseQuantizeConfig(nbits=8 if "8bit" in name else 4, group_size=64, axis=1)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    for block in model.model.layers:
        for part in (block.self_attn, block.mlp):
            for key, layer in list(part.named_children()):
                if isinstance(layer, torch.nn.Linear):
                    setattr(part, key, HQQLinear(layer, config, compute_dtype=torch.float16, device="cpu"))
    AutoHQQHFModel.save_quantized(model, str(folder))


def quantize_autoround(name: str, source: Path, folder: Path, calibration: np.ndarray) -> None:
    import torch
    from auto_round import AutoRound
    from transformers import AutoTokenizer

    windows = torch.from_numpy(calibration.astype(np.int64))[:, : AUTOROUND["seqlen"]]
    engine = AutoRound(
        str(source),
        tokenizer=AutoTokenizer.from_pretrained(source),
        dataset=[{"input_ids": window[None]} for window in windows],
        bits=4,
        group_size=64,
        sym=True,
        nsamples=len(windows),
        low_gpu_mem_usage=True,
        device_map="cpu",
        enable_torch_compile=False,
        seed=0,
        **AUTOROUND | (ROUNDED if name.startswith("rounded") else {}),
    )
    engine.quantize_and_save(str(folder), format="auto_round")


def quantize_gptq(source: Path, folder: Path, calibration: np.ndarray) -> None:
    import torch
    from gptqmodel import GPTQModel, QuantizeConfig

    config = QuantizeConfig(bits=4, group_size=64, sym=True, desc_act=False, damp_percent=0.05)
    windows = [torch.from_numpy(window.astype(np.int64)) for window in calibration]
    tokens = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in windows]
    model = GPTQModel.load(str(source), config)
    model.quantize(tokens, batch_size=1)
    model.save(str(folder))


def convert_to_gguf(source: Path, file: Path) -> None:
    """Run llama.cpp's converter, which auto-round carries: BF16."""
    import gguf
    from auto_round.export.export_to_gguf.llama_cpp_conversion import get_conversion

    architecture = json.loads((source / "config.json").read_text())["architectures"][0]
    converter = get_conversion(source, auto_update=False).get_model_class(architecture)
    converter(source, gguf.LlamaFileType.MOSTLY_BF16, file).write()


def quantize_gguf(name: str, converted: Path, folder: Path) -> None:
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    kind = name.removeprefix("gguf-").upper()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{'ALL' if kind == 'F32' else 'MOSTLY'}_{kind}")
    target = folder / "model.gguf"
    if llama_cpp.llama_model_quantize(str(converted).encode(), str(target).encode(), ctypes.byref(params)):
        raise RuntimeError(f"{name}: llama_model_quantize failed")


# --- how each is run: fp32 arithmetic wherever the method leaves a choice ---


def transformers_forward(folder: Path, *, gptq: bool) -> Forward:
    import torch
    from transformers import AutoModelForCausalLM, GPTQConfig

    # The kernel that gptqmodel picks on a CPU computes in bf16; this one follows the activations.
    kernel = {"quantization_config": GPTQConfig(bits=4, backend="gptq_torch")} if gptq else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu", **kernel)
    widen_parameters(model)
    for name, module in list(model.named_modules()):
        if type(module).__name__ == "Linear4bit":
            module.compute_dtype, module.compute_type_is_set = torch.float32, True
            module.support_avx512bf16_for_cpu = False  # a CPU that has it would compute in bf16
        elif hasattr(module, "qweight"):  # GPTQ: unpack once, not at every window
            module.scales = module.scales.float()
            model.set_submodule(name, plain_linear(module.dequantize_weight().T.contiguous(), module.bias))
    return logits_of(model)


def widen_parameters(model: Any) -> None:
    """Convert the model's half-precision parameters to fp32, in place.

    Transformers ignores `dtype` for quantized folders: embeddings and norms, and so every activation, stay in half precision.
    """
    import torch

    for parameter in model.parameters():
        if parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()


def plain_linear(weight: Any, bias: Any) -> Any:
    import torch

    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    linear.bias = bias
    return linear


def logits_of(model: Any) -> Forward:
    import torch

    model.eval()

    def forward(window: np.ndarray) -> Any:
        with torch.inference_mode():
            ids = torch.from_numpy(window[None].astype(np.int64))
            return model(input_ids=ids, use_cache=False).logits[0, :-1].float()

    return forward


def hqq_forward(folder: Path) -> Forward:
    """Open the pickle with hqq's own loader, and compute with each layer's matrix in fp32."""
    import torch
    from hqq.models.hf.base import AutoHQQHFModel

    model = AutoHQQHFModel.from_quantized(str(folder), compute_dtype=torch.float32, device="cpu")
    for name, module in list(model.named_modules()):
        if type(module).__name__ == "HQQLinear":
            module.meta |= {"compute_dtype": torch.float32}  # else the layer unpacks into fp16, in which it was made
            module.meta |= {key: module.meta[key].float() for key in ("scale", "zero")}
            model.set_submodule(name, plain_linear(module.dequantize(), module.bias))
    return logits_of(model)


def autoround_forward(folder: Path) -> Forward:
    """Open the folder with transformers, and compute with each layer's matrix unpacked to fp32."""
    import torch
    from transformers import AutoModelForCausalLM

    (inner,) = folder.rglob("config.json")
    model = AutoModelForCausalLM.from_pretrained(inner.parent, dtype=torch.float32, device_map="cpu")
    widen_parameters(model)
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    for name, module in list(model.named_modules()):
        if hasattr(module, "qweight"):  # eight inputs to an int32, or eight zeros, which are stored less one
            codes = (module.qweight[:, None, :] >> shifts[:, None] & 15).flatten(0, 1)
            zeros = (module.qzeros[:, :, None] >> shifts & 15).flatten(1, 2)
            groups = torch.arange(len(codes)) // 64
            weight = (codes - zeros[groups] - 1) * module.scales.float()[groups]
            model.set_submodule(name, plain_linear(weight.T.contiguous(), module.bias))
    return logits_of(model)


def llama_cpp_forward(file: Path, length: int, threads: int) -> Forward:
    import llama_cpp
    import torch

    sizes = {"n_ctx": length, "n_batch": length, "n_ubatch": length}
    sizes |= {"n_threads": threads, "n_threads_batch": threads}
    cache = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}  # f16 costs a KL of 1e-6
    model = llama_cpp.Llama(str(file), **sizes, **cache, logits_all=True, verbose=False)

    def forward(window: np.ndarray) -> Any:
        model.reset()
        model.eval(window.tolist())
        return torch.from_numpy(model.scores[: length - 1].copy())

    return forward


# --- what is measured, the same for all ---


def load_windows(path: Path) -> np.ndarray:
    from safetensors.numpy import load_file

    return load_file(path)["input_ids"]


def evaluate(forward: Forward, windows: np.ndarray, logits_file: Path, *, record: bool) -> dict[str, float]:
    """Score ids 1..n-1 of each window, and compare the logits with the baseline's.

    With `record` the logits are the baseline's, and are written to the file first.
    """
    import torch

    baseline = None if record else np.load(logits_file, mmap_mode="r")
    nll, kl, agree = [], [], []
    for index, window in enumerate(windows):
        logits = forward(window)
        if baseline is None:
            shape = (len(windows), *logits.shape)
            baseline = np.lib.format.open_memmap(logits_file, mode="w+", dtype=np.float32, shape=shape)
        if record:
            baseline[index] = logits.numpy()
        targets = torch.from_numpy(window[1:].astype(np.int64))
        for begin in range(0, len(targets), 64):  # 64 rows of a 50k vocabulary in float64 are 25 MB
            part = slice(begin, begin + 64)
            log_q = torch.log_softmax(logits[part].double(), dim=-1)
            log_p = torch.log_softmax(torch.from_numpy(np.array(baseline[index, part])).double(), dim=-1)
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


# --- one process per library ---


@contextlib.contextmanager
def clock(into: dict[str, Any], key: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    into[key] = round(time.perf_counter() - start, 3)


def run_library(library: str, options: argparse.Namespace) -> dict[str, Any]:
    """Make and measure the chosen variants of one library in this process."""
    import torch

    torch.set_num_threads(options.threads)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # int8 warns once per matrix product
    for module in ("transformers", IMPORTS[library]):  # before the clocks start
        importlib.import_module(module)
    windows, results = load_windows(options.evaluation), {}
    for name in (name for name in LIBRARIES[library] if name in ("baseline", *options.variants)):
        folder, figures = options.out / name, results.setdefault(name, {"quantize_s": 0.0})
        weights = options.source if name == "baseline" else folder
        shutil.rmtree(folder, ignore_errors=True)
        if name != "baseline":
            folder.mkdir()
            with clock(figures, "quantize_s"):
                if library == "bitsandbytes":
                    quantize_bitsandbytes(name, options.source, folder)
                elif library == "hqq":
                    quantize_hqq(name, options.source, folder)
                elif library == "gptqmodel":
                    quantize_gptq(options.source, folder, load_windows(options.calibration))
                elif library == "auto-round":
                    quantize_autoround(name, options.source, folder, load_windows(options.calibration))
                else:
                    quantize_gguf(name, options.out / "converted.gguf", folder)
        with clock(figures, "evaluate_s"):
            if library == "llama.cpp":
                forward = llama_cpp_forward(folder / "model.gguf", windows.shape[1], options.threads)
            elif library == "hqq":
                forward = hqq_forward(folder)
            elif library == "auto-round":
                forward = autoround_forward(folder)
            else:
                forward = transformers_forward(weights, gptq=library == "gptqmodel")
            logits_file = options.out / "baseline_logits.npy"
            figures |= evaluate(forward, windows, logits_file, record=name == "baseline")
        files = [file for file in weights.rglob("*") if file.suffix in (".safetensors", ".gguf", ".pt")]
        figures["size_bytes"] = sum(file.stat().st_size for file in files)
    return results


def spawn(step: str, options: argparse.Namespace) -> float:
    """Run one step in a process of its own, its output in DIR/<step>.log; return its seconds."""
    command = [sys.executable, str(Path(__file__).resolve()), "--step", step, "--threads", str(options.threads)]
    for key in ("source", "calibration", "evaluation", "out"):
        command += [f"--{key}", str(getattr(options, key).resolve())]
    command += ["--variants", *options.variants]
    # gptqmodel wants two workers whatever the machine has, compiles C++ at run time if it may, redraws progress
    # bars unless the terminal is dumb, and leaves a logs/ folder where it runs: so it runs in DIR.
    settings = {"GPTQMODEL_CPU_WORKERS": "2", "GPTQMODEL_DISABLE_PACK_EXT": "1", "TORCHDYNAMO_DISABLE": "1"}
    environment = os.environ | settings | {"TERM": "dumb", "HF_HUB_OFFLINE": "1"}
    log_file, start = options.out / f"{step}.log", time.perf_counter()
    with log_file.open("w") as log:
        done = subprocess.run(command, stdout=log, stderr=log, cwd=options.out, env=environment, check=False)
    if done.returncode:
        tail = log_file.read_text(errors="replace")[-2000:]
        raise SystemExit(f"{step} failed with exit code {done.returncode}:\n{tail}")
    return round(time.perf_counter() - start, 1)


def run_all(options: argparse.Namespace, report_file: Path) -> dict[str, Any]:
    """Run every step that the chosen variants need and that `report_file` lacks; return the report."""
    report: dict[str, Any] = {"versions": {name: importlib.metadata.version(name) for name in PACKAGES}}
    report |= {"threads": options.threads, "inputs": digests(options)}
    kept = json.loads(report_file.read_text()) if report_file.is_file() else {}
    same = {key: kept.get(key) for key in report} == report
    report |= {key: kept[key] if same else {} for key in ("process_s", "variants")}
    for library, names in LIBRARIES.items():
        wanted = {name for name in names if name in ("baseline", *options.variants)}
        if wanted <= report["variants"].keys():
            continue
        if library == "llama.cpp":
            report["process_s"]["convert"] = spawn("convert", options)
        report["process_s"][library] = spawn(library, options)
        report["variants"] |= json.loads((options.out / f"{library}.json").read_text())
        report["total_s"] = round(sum(report["process_s"].values()), 1)
        report_file.write_text(json.dumps(report, indent=2) + "\n")
    return report


def digests(options: argparse.Namespace) -> dict[str, str]:
    """Return the sha256 of each input of the figures: the weights and both token sets."""
    weights = sorted(options.source.glob("*.safetensors"))
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in (*weights, options.calibration, options.evaluation)
    }


# --- the report, and the comparison with the product ---


def print_figures(report: dict[str, Any]) -> bool:
    """Print the table; return whether the two runtimes agree on the unquantized weights."""
    print(f"{'variant':42} perplexity    mean KL     p99 KL    top-1   make s   eval s      MB")
    for name, row in report["variants"].items():
        print(
            f"{name:42} {row['perplexity']:10.6f} {row['mean_kl']:10.3g} {row['p99_kl']:10.3g}"
            f" {row['top1_agreement']:8.2%} {row['quantize_s']:8.1f} {row['evaluate_s']:8.1f}"
            f" {row['size_bytes'] / 1e6:7.1f}"
        )
    print(f"{report['total_s']:.0f} s in all: {report['process_s']}")
    if "gguf-f32" not in report["variants"]:
        return True
    f32, baseline = report["variants"]["gguf-f32"], report["variants"]["baseline"]
    drift = abs(f32["perplexity"] / baseline["perplexity"] - 1)
    agree = bool(drift <= F32_TOLERANCE[0] and f32["mean_kl"] <= F32_TOLERANCE[1])
    print(f"F32 in llama.cpp and in transformers: {'agree' if agree else 'DISAGREE'} (perplexity {drift:.1e})")
    return agree


def parse_safetensors(raw: bytes) -> dict[str, tuple[str, bytes]]:
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = (f"{entry['dtype']} {entry['shape']}", raw[start + begin : start + end])
    return tensors


def read_tensors(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Return each tensor's type, shape and bytes from all safetensors, GGUF and hqq files of a folder."""
    tensors: dict[str, tuple[str, bytes]] = {}
    for file in sorted(folder.rglob("*.safetensors")):
        tensors |= parse_safetensors(file.read_bytes())
    for file in sorted(folder.rglob("qmodel.pt")):
        import torch
        from safetensors.torch import save

        for module, state in torch.load(file, weights_only=True).items():
            parts = {key: part.contiguous() for key, part in state.items() if isinstance(part, torch.Tensor)}
            tensors |= {f"{module}.{key}": entry for key, entry in parse_safetensors(save(parts)).items()}
    for file in sorted(folder.rglob("*.gguf")):
        from gguf import GGUFReader

        for tensor in GGUFReader(file).tensors:
            tensors[tensor.name] = (f"{tensor.tensor_type.name} {tensor.shape.tolist()}", tensor.data.tobytes())
    return tensors


def compare_artifacts(names: list[str], ours: Path, theirs: Path) -> bool:
    """Print for each variant whether the product's tensors equal those made here; return whether all do."""
    print()
    equal = True
    for name in (name for name in names if (theirs / name).is_dir()):
        a, b = read_tensors(ours / name), read_tensors(theirs / name)
        if name.startswith("hqq"):  # the product's numbers are tensors too; hqq keeps a tied head twice
            b = {key: part for key, part in b.items() if key.endswith(HQQ_TENSORS)}
            a.pop("lm_head.weight", None)
        differing = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
        equal &= not differing and bool(a)
        verdict = f"different: {len(differing)}, first {differing[0]}" if differing else "equal"
        print(f"{name:42} {len(a)} tensors here, {len(b)} there: {verdict}")
    return equal


def compare_summary(variants: dict[str, dict[str, Any]], summary: dict[str, Any]) -> bool:
    """Print both perplexities side by side; return whether all agree."""
    product = {row["name"]: row for row in summary["variants"]} | {"baseline": summary["baseline"]}
    agree = True
    print(f"\n{'variant':42}    by hand    product  difference")
    for name, row in variants.items():
        theirs = product.get(name, {}).get("perplexity")
        if theirs is None:
            print(f"{name:42} {row['perplexity']:10.6f}          -")
            continue
        difference = theirs / row["perplexity"] - 1
        agree &= abs(difference) <= PERPLEXITY_TOLERANCE
        print(f"{name:42} {row['perplexity']:10.6f} {theirs:10.6f} {difference:+11.5%}")
    for name in (row["name"] for row in summary["variants"] if row["name"] not in variants):
        print(f"{name:42} not made by hand")
        agree = False
    return agree


def main() -> int:
    every = [name for names in LIBRARIES.values() for name in names]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for key in ("source", "calibration", "evaluation", "out"):
        parser.add_argument(f"--{key}", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", choices=every, default=every)
    parser.add_argument("--threads", type=int, default=2, help="GPTQ's tensors depend on it")
    parser.add_argument("--summary", type=Path, help="compare with this RunSummary")
    parser.add_argument("--artifacts", type=Path, help="compare with the artifacts in this folder")
    parser.add_argument("--compare-only", action="store_true", help="use the figures that DIR already holds")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()

    if options.step == "convert":
        convert_to_gguf(options.source, options.out / "converted.gguf")
        return 0
    if options.step:
        results = run_library(options.step, options)
        (options.out / f"{options.step}.json").write_text(json.dumps(results))
        return 0

    options.out.mkdir(parents=True, exist_ok=True)
    report_file = options.out / "by_hand.json"
    report = json.loads(report_file.read_text()) if options.compare_only else run_all(options, report_file)
    good = print_figures(report)
    if options.artifacts:
        good &= compare_artifacts(
            [name for name in report["variants"] if name != "baseline"], options.out, options.artifacts
        )
    if options.summary:
        good &= compare_summary(report["variants"], json.loads(options.summary.read_text()))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
