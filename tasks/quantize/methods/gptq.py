"""GPTQ (arXiv:2210.17323) through GPTQModel, the maintained successor of auto-gptq."""

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
    """Quantize layer by layer on the calibration windows.

    GPTQModel rounds to nearest, silently, where a layer saw too few tokens or its Hessian has no inverse; its log then
    holds words where the loss would be. Those modules are reported as fallbacks.
    """
    if calibration is None:
        raise ValueError("gptq needs calibration windows")
    gptqmodel_engine.prepare()
    from gptqmodel import QuantizeConfig

    chosen = tensors.choose_bits(spec.layers, source)
    config = QuantizeConfig(
        bits=spec.bits,
        group_size=spec.group_size,
        desc_act=spec.desc_act,
        sym=spec.sym,
        damp_percent=spec.damp_percent,
        dynamic=gptqmodel_engine.dynamic(chosen),
    )
    log = gptqmodel_engine.run(source, config, calibration, out, device, arithmetic, progress)
    replaced = gptqmodel_engine.fallbacks(log)
    return tensors.account(source, out, scheme="gptq", replaced=replaced, left=tensors.left(chosen))
