"""Imported: a checkpoint that was quantized elsewhere, with unchanged files."""

from quantmill.recipe.method_row import AS_IT_IS, Memory, Method, steady
from quantmill.recipe.options import MethodOptions, choice


class Options(MethodOptions):
    """The options of an import: the address of the checkpoint."""

    source: str = choice(
        "",
        "The finished checkpoint, a folder or a .gguf file; empty: the model itself.",
        words="a model folder or a .gguf file",
        pattern=r"[^\x00-\x1f]{1,4096}",
        example="./my-model-gptq",
    )


METHOD = Method(
    name="imported",
    position=99,
    label="imported",
    title="A checkpoint that was quantized elsewhere (GPTQ, AWQ, AutoRound, bitsandbytes, GGUF), with unchanged files.",
    source="no quantization",
    choices=Options,
    calibrated=False,
    format=AS_IT_IS,
    runtime="transformers",
    thread_dependent=False,
    processor_dependent=False,
    engines=(),
    programs=(),  # the rules of the method that packed the checkpoint apply
    fine_tuning="as its method",
    deterministic=True,
    stored_bits=lambda bits, _kind, _options: bits,
    memory=Memory(libraries=7e8, per_weight=2.5),
    cost=steady(1),
)
