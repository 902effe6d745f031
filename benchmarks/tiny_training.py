"""Trains the tiny model: a Llama from SmolLM2's token embeddings, in a bounded number of steps.

Three things make so few steps enough. Muon (Jordan et al. 2024) steps the matrices, AdamW the rest. The embeddings start
as SmolLM2's own on their first 256 principal axes. The softmax covers the tokens of the training text and a fresh sample
of the other tokens, corrected for their share (Jean et al. 2015), not all 49,152 tokens.

One thing makes the model hard to round. Weights that were trained for seconds have no outliers, so four bits would cost
almost nothing. Therefore columns are scaled by powers of two, and the norm or matrix before them by the inverse: the
function stays the same to the last bit of bf16.
"""

import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Training:
    """The settings that decide the model's bytes.

    The locked versions, the text, and the file that the tokenizer comes from decide the bytes as well.
    """

    hidden: int = 256  # the block of llama.cpp's K-quants
    intermediate: int = 512
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    context: int = 1024
    steps: int = 150
    batch: int = 8
    length: int = 128
    other_tokens: int = 1024
    embedding_std: float = 0.05
    matrix_rate: float = 0.02  # Muon: attention and MLP
    row_rate: float = 2e-3  # AdamW: embeddings
    norm_rate: float = 1e-3
    outliers: float = 0.75  # standard deviation of the exponents of two
    seed: int = 0
    threads: int = 2
    revision: int = 2


def embeddings(gguf: Path, training: Training) -> Any:
    """Return SmolLM2's token embeddings on their first principal axes, scaled: (vocabulary, hidden)."""
    from gguf import GGUFReader, quants

    table = next(tensor for tensor in GGUFReader(gguf).tensors if tensor.name == "token_embd.weight")
    rows = quants.dequantize(table.data, table.tensor_type)
    spread = (rows.T @ rows).astype(np.float64)
    axes = np.linalg.eigh(spread)[1][:, ::-1][:, : training.hidden].astype(np.float32)  # eigh's values ascend
    axes *= np.sign(axes.sum(axis=0))  # an axis has no sign; without this line the library would choose the sign
    placed = rows @ axes
    return placed * np.float32(training.embedding_std / placed.std())


def new_model(training: Training, tokenizer: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(training.seed)
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype=torch.bfloat16,
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=training.hidden,
        intermediate_size=training.intermediate,
        num_hidden_layers=training.layers,
        num_attention_heads=training.heads,
        num_key_value_heads=training.kv_heads,
        max_position_embeddings=training.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id("<|im_start|>"),
        eos_token_id=tokenizer.token_to_id("<|im_end|>"),
        pad_token_id=tokenizer.token_to_id("<|im_end|>"),
    )
    return LlamaForCausalLM(config).float()


def train(model: Any, ids: Any, start: Any, training: Training) -> None:
    """Train in place; tokens that the text does not use move together, by one shift."""
    import torch
    from torch.nn.functional import cross_entropy, embedding

    used, compact = np.unique(ids, return_inverse=True)
    others = np.setdiff1d(np.arange(len(start)), used)
    rows, still = torch.nn.Parameter(torch.from_numpy(start[used])), torch.from_numpy(start[others])
    shift = torch.nn.Parameter(torch.zeros(training.hidden))
    correction = math.log(len(others) / training.other_tokens)
    rng = np.random.default_rng(training.seed)
    batches = _batches(compact, training, rng)
    steppers, started = _optimizers(model, rows, shift, training), time.perf_counter()
    for step in range(training.steps):
        batch = torch.from_numpy(next(batches))
        sample = torch.from_numpy(rng.choice(len(others), training.other_tokens, replace=False))
        hidden = model.model(inputs_embeds=embedding(batch[:, :-1], rows), use_cache=False).last_hidden_state
        hidden = hidden.flatten(0, 1)
        near, far = hidden @ rows.T, hidden @ (still[sample] + shift).T
        logits = torch.cat([near, far + correction], dim=1)
        loss = cross_entropy(logits, batch[:, 1:].flatten())
        loss.backward()
        for stepper, schedule in steppers:
            stepper.step()
            stepper.zero_grad()
            schedule.step()
        if (step + 1) % 25 == 0:
            print(
                f"step {step + 1} of {training.steps}, loss {loss.item():.2f}, {time.perf_counter() - started:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    table = torch.empty(start.shape)
    table[torch.from_numpy(used)], table[torch.from_numpy(others)] = rows.detach(), (still + shift).detach()
    model.get_input_embeddings().weight.data.copy_(table)  # the head is tied to it


def _batches(ids: Any, training: Training, rng: Any) -> Any:
    """Yield (batch, length + 1) ids for ever; each pass cuts the text at another offset and shuffles."""
    queue: list[int] = []
    while True:
        while len(queue) < training.batch:
            cuts = np.arange(rng.integers(training.length), len(ids) - training.length, training.length)
            queue += rng.permutation(cuts).tolist()
        begins, queue = queue[: training.batch], queue[training.batch :]
        yield np.stack([ids[begin : begin + training.length + 1] for begin in begins])


def _optimizers(model: Any, rows: Any, shift: Any, training: Training) -> list[tuple[Any, Any]]:
    """Return Muon for the matrices and AdamW for the rest, each with the schedule of its rate.

    The schedule has a warm-up, a plateau, and a linear descent over the last 60 % of the steps.
    """
    import torch

    from benchmarks.muon import Muon

    body = [parameter for name, parameter in model.model.named_parameters() if "embed_tokens" not in name]
    matrices = [parameter for parameter in body if parameter.ndim == 2]
    muon = Muon(matrices, training.matrix_rate)
    groups = [
        {"params": [rows, shift], "lr": training.row_rate},
        {"params": [p for p in body if p.ndim == 1], "lr": training.norm_rate},
    ]
    adam = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)

    def rate(step: int) -> float:
        descent = (training.steps - step) / (0.6 * training.steps)
        return min(1.0, (step + 1) / (0.1 * training.steps)) * max(0.02, min(1.0, descent))

    return [(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)) for optimizer in (muon, adam)]


def add_outliers(model: Any, training: Training) -> None:
    """Scale columns by powers of two, and the norm or the matrix before them by the inverse."""
    import torch

    rng = np.random.default_rng(training.seed)

    def powers(count: int) -> Any:
        exponents = np.clip(np.round(rng.normal(0.0, training.outliers, count)), -4, 4)
        return torch.from_numpy(np.exp2(exponents).astype(np.float32))

    with torch.no_grad():
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for norm, readers in (
                (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
                (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
            ):
                scale = powers(training.hidden)
                norm.weight /= scale
                for reader in readers:
                    reader.weight *= scale
            scale = powers(training.intermediate)
            mlp.up_proj.weight /= scale[:, None]
            mlp.down_proj.weight *= scale
