"""The scores of `arrays.py` in torch, on the device of the logits.

Only the scores are copied from the device, not the logits.
"""

import numpy
import torch

from tasks.metrics.arrays import CHUNK, Ints, Scores


def score(reference: torch.Tensor, logits: torch.Tensor, targets: Ints) -> Scores:
    """Return the scores of `logits` against `reference` logits at each position.

    The logits have shape (positions, vocabulary), `targets` has shape (positions,).
    """
    wanted = torch.from_numpy(targets.astype(numpy.int64)).to(logits.device)
    nll, kl = (torch.empty(len(wanted), dtype=torch.float64, device=logits.device) for _ in range(2))
    for start in range(0, len(wanted), CHUNK):
        rows = slice(start, start + CHUNK)
        q, p = _shifted(logits[rows]), _shifted(reference[rows])
        log_sum = q.exp().sum(-1).log()
        nll[rows] = log_sum - q.gather(-1, wanted[rows, None])[:, 0]
        q = torch.sub(p, q, out=q)
        weights = p.exp_()
        total = weights.sum(-1)
        if torch.isnan(sums := q.mul_(weights).sum(-1)).any():  # 0 times infinity
            sums = q.masked_fill_(weights == 0, 0.0).sum(-1)
        kl[rows] = sums / total - total.log() + log_sum
    agrees = logits.argmax(-1) == reference.argmax(-1)
    return Scores(nll=nll.cpu().numpy(), kl=kl.cpu().numpy(), agrees=agrees.cpu().numpy())


def _shifted(logits: torch.Tensor) -> torch.Tensor:
    """Return logits in float64, each row shifted so that its largest logit is 0."""
    wide = logits.to(torch.float64, copy=True)
    return wide.sub_(wide.amax(-1, keepdim=True))
