"""What an arithmetic alone costs, as mean KL in nats per token: where differences drown, and how far a trace may be off.

Measured on SmolLM2-135M, 160 tokens of the Apache-2.0 licence, an EPYC without bf16 instructions: the whole model in bf16
against fp32 2.1e-3 (1.1e-3 on another text), its head alone 3.2e-4; in fp16 3.8e-5 and 4.2e-6. fp32 is the reference: its own
floor is what a runtime is measured to show.
"""

_FLOOR = {"bfloat16": 2e-3, "float16": 4e-5}
_TRACE = {"bfloat16": 5e-3, "float16": 1e-4}
_EXACT = 1e-6


def floor(compute_dtype: str) -> float:
    """Return the mean KL below which figures of that arithmetic say nothing; 0 for fp32 and for what torch did not compute."""
    return _FLOOR.get(compute_dtype, 0.0)


def trace_tolerance(compute_dtype: str) -> float:
    """Return the mean KL by which logits recomputed in fp32 may differ from the baseline's own, computed in that arithmetic."""
    return _TRACE.get(compute_dtype, _EXACT)
