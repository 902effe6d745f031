"""AWQ (arXiv:2306.00978) through GPTQModel: salient channels are scaled before rounding. The maintained successor of autoawq."""

from pathlib import Path

from quantmill.recipe.recipe import VariantSpec
from quantmill.records.artifact import QuantizedTensor
from tasks.engines import gptqmodel as gptqmodel_engine
from tasks.model import tensors
from tasks.sandbox import Progress


def quantize(
    source: Path,
    spec: VariantSpec,
    calibration: Path | None,
    out: Path,
    device: str,
    arithmetic: str,
    progress: Progress,
) -> list[QuantizedTensor]:
    """Search the scales layer by layer on the calibration windows; GEMM layout, bf16 (packing fp32 fails at the end)."""
    if calibration is None:
        raise ValueError("awq needs calibration windows")
    gptqmodel_engine.prepare()
    from gptqmodel import BACKEND, QuantizeConfig
    from gptqmodel.quantization import FORMAT, METHOD

    config = QuantizeConfig(
        bits=spec.bits, group_size=spec.group_size, sym=not spec.zero_point, method=METHOD.AWQ, format=FORMAT.GEMM
    )
    options = {"backend": BACKEND.AWQ_TORCH} if device == "cpu" else {}
    gptqmodel_engine.run(source, config, calibration, out, device, arithmetic, progress, **options)
    return tensors.account(source, out, scheme="awq")
