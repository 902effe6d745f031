"""Muon (Jordan et al. 2024) in fp32.

torch's own Muon iterates in bf16, which processors without bf16 instructions compute in one slow thread.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # the paper's quintic: singular values end between about 0.7 and 1.2
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Steps matrices along the orthogonal factor of their momentum."""

    def __init__(self, matrices: Iterable[torch.nn.Parameter], rate: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": rate, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # noqa: ARG002 - torch's signature
        """Step every matrix that has a gradient, with Nesterov's momentum."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                average = self.state[matrix].setdefault("average", torch.zeros_like(matrix))
                average.lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonalize(matrix.grad.lerp(average, group["momentum"]))
                rows, columns = matrix.shape
                matrix.add_(update, alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """Return approximately U V^T of a matrix U S V^T, by a Newton-Schulz iteration in its own arithmetic."""
    first, third, fifth = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.T if tall else matrix
    found = found / found.norm().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), found, beta=first)
    return found.T if tall else found
