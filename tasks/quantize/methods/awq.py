"""AWQ (arXiv:2306.00978) through GPTQModel: scales salient channels before rounding.

GPTQModel is the maintained successor of autoawq.
"""

from pathlib import Path

from quantmill.recipe.methods import awq
from quantmill.recipe.methods.awq import Options
from quantmill.records.artifact import Architecture, QuantizedTensor
from tasks import support
from tasks.engines import gptqmodel as gptqmodel_engine
from tasks.model import architecture, tensors
from tasks.quantize.work import Work


def quantize(work: Work[Options]) -> list[QuantizedTensor]:
    """Search the scales layer by layer on the calibration windows; write the GEMM layout.

    The weights stay in bf16: with fp32 weights, packing fails at the end.
    """
    gptqmodel_engine.prepare()
    from gptqmodel import BACKEND, QuantizeConfig
    from gptqmodel.quantization import FORMAT, METHOD

    config = QuantizeConfig(
        bits=work.bits,
        group_size=work.options.group_size,
        sym=not work.options.zero_point,
        method=METHOD.AWQ,
        format=FORMAT.GEMM,
    )
    options = {"backend": BACKEND.AWQ_TORCH} if work.device == "cpu" else {}
    gptqmodel_engine.run(work, config, **options)
    return tensors.account(work.source, work.out, awq.METHOD.name)


def obstacle(model: Architecture, folder: Path) -> str:
    """Return why GPTQModel cannot quantize the model; empty if it can."""
    if why := support.gptqmodel_obstacle(model, folder):
        return why
    if architecture.turns_by_layer_type(folder):
        return "GPTQModel's AWQ knows one rotary embedding for all layers, this model has one for each type; gptq can"
    if tensors.transposed(folder):
        return "GPTQModel's AWQ cannot scale transposed matrices (Conv1D); autoround can round them"
    return ""
