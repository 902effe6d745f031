"""AutoRound (arXiv:2309.05516): learns the rounding by signed gradient descent, block by block."""

import gc
import logging
import os
import shutil
from pathlib import Path

from quantmill.recipe.methods.autoround import METHOD, Options
from quantmill.records.artifact import QuantizedTensor
from tasks.model import stored_types, tensors
from tasks.quantize.work import Work
from tasks.sandbox import Progress


def quantize(work: Work[Options]) -> list[QuantizedTensor]:
    """Tune the rounding on the calibration windows and write the requested format.

    By default, the engine would download a data set.
    """
    if any(tensors.renamed(name) != name for name in tensors.linear_names(work.source)):
        # Else AutoRound looks for the experts' weights under names that the checkpoint does not have, and fails.
        os.environ["AR_DISABLE_META_LOAD"] = "1"
    from auto_round import AutoRound
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    gc.freeze()  # the engine collects garbage several times a block; scanning all imported objects takes 0.5 s each time
    chosen, told = tensors.choose_bits(work.layers, work.source), work.options
    windows = load_file(work.windows)["input_ids"].long()
    windows = windows[: told.samples or None, : told.sequence_length or None]
    layers = tensors.layer_count(work.source)
    engine = AutoRound(
        str(work.source),
        tokenizer=AutoTokenizer.from_pretrained(work.source, local_files_only=True),
        bits=work.bits,
        group_size=told.group_size,
        sym=told.sym,
        iters=told.iterations,
        lr=told.learning_rate,
        minmax_lr=told.minmax_learning_rate,
        nsamples=len(windows),
        seqlen=windows.shape[1],
        batch_size=min(told.batch_size, len(windows)),
        low_gpu_mem_usage=told.low_memory,
        dataset=[{"input_ids": ids[None]} for ids in windows],
        layer_config={name: {"bits": width} for name, width in chosen.items()} or None,
        device_map=work.device if work.device == "cpu" else told.device_map or work.device,
        enable_torch_compile=False
        if work.device == "cpu"
        else None,  # by default it compiles from 10 steps on, which takes 1.5 times as long on a CPU
        amp=work.arithmetic == "bfloat16",  # else AutoRound inspects the processor
        seed=0,
        trust_remote_code=False,
    )
    work.progress("block", 0, layers)
    logging.getLogger(METHOD.name).addHandler(_BlockProgress(work.progress, layers))
    engine.quantize_and_save(str(work.out), format=told.export_format)
    work.progress("block", layers, layers)
    _flatten(work.out)
    stored_types.keep(work.source, work.out)
    return tensors.account(work.source, work.out, METHOD.name, left=tensors.left(chosen))


class _BlockProgress(logging.Handler):
    """Counts the finished blocks from the engine's log; the engine reports its progress nowhere else."""

    def __init__(self, progress: Progress, total: int) -> None:
        super().__init__()
        self._progress, self._total, self._done = progress, total, 0

    def emit(self, record: logging.LogRecord) -> None:
        if "layers in the block" in record.getMessage() and self._done < self._total:
            self._done += 1
            self._progress("block", self._done, self._total)


def _flatten(out: Path) -> None:
    """Move the artifact's files from the engine's subfolder into `out`."""
    if not (out / "config.json").exists():
        (inner,) = [path for path in out.iterdir() if path.is_dir()]
        for path in inner.iterdir():
            shutil.move(path, out / path.name)
        inner.rmdir()
