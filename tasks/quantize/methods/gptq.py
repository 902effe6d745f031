"""GPTQ (arXiv:2210.17323) through GPTQModel, the maintained successor of auto-gptq."""

from pathlib import Path

from quantmill.recipe.methods.gptq import METHOD, Options
from quantmill.records.artifact import Architecture, QuantizedTensor
from tasks import support
from tasks.engines import gptqmodel as gptqmodel_engine
from tasks.model import tensors
from tasks.quantize.work import Work


def quantize(work: Work[Options]) -> list[QuantizedTensor]:
    """Quantize layer by layer on the calibration windows.

    If a layer saw too few tokens or its Hessian has no inverse, GPTQModel silently rounds its weights to nearest; its log then
    has words in place of the loss. The records name such modules as fallbacks.
    """
    gptqmodel_engine.prepare()
    from gptqmodel import QuantizeConfig

    chosen, told = tensors.choose_bits(work.layers, work.source), work.options
    config = QuantizeConfig(
        bits=work.bits,
        group_size=told.group_size,
        desc_act=told.desc_act,
        sym=told.sym,
        damp_percent=told.damp_percent,
        dynamic=gptqmodel_engine.dynamic(chosen),
    )
    log = gptqmodel_engine.run(work, config)
    replaced = gptqmodel_engine.fallbacks(log)
    return tensors.account(work.source, work.out, METHOD.name, replaced=replaced, left=tensors.left(chosen))


def obstacle(model: Architecture, folder: Path) -> str:
    """Return why GPTQModel cannot quantize the model; empty if it can."""
    if why := support.gptqmodel_obstacle(model, folder):
        return why
    if tensors.transposed(folder):
        return "transformers cannot open GPTQ's layers in place of transposed matrices (Conv1D); autoround's it can"
    return ""
