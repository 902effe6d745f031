"""bitsandbytes through transformers: LLM.int8() (arXiv:2208.07339), and nf4 and fp4 of QLoRA.

QLoRA: arXiv:2305.14314.
"""

from quantmill.recipe.methods.bitsandbytes import Options
from quantmill.records.artifact import QuantizedTensor
from tasks.engines import placement
from tasks.model import tensors
from tasks.quantize.work import Work


def quantize(work: Work[Options]) -> list[QuantizedTensor]:
    """Quantize all layers but head, embeddings and norms while loading, then save as safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    chosen, told = tensors.choose_bits(work.layers, work.source), work.options
    options = {"llm_int8_skip_modules": ["lm_head", *chosen]} if chosen else {}
    if work.kind == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=told.threshold, **options)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=work.kind,
            bnb_4bit_use_double_quant=told.double_quant,
            bnb_4bit_compute_dtype=getattr(torch, told.compute_dtype),
            **options,
        )
    work.progress("quantize", 0, 1)
    model = AutoModelForCausalLM.from_pretrained(
        work.source,
        dtype=torch.bfloat16,
        quantization_config=config,
        local_files_only=True,
        **placement.of(told.device_map, told.max_memory, work.device),
    )
    model.save_pretrained(work.out)
    work.progress("quantize", 1, 1)
    return tensors.account(work.source, work.out, scheme=work.kind, left=tensors.left(chosen))
