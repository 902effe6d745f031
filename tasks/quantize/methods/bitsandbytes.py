"""bitsandbytes: LLM.int8() (arXiv:2208.07339) and QLoRA's nf4 and fp4 (arXiv:2305.14314), through transformers."""

from pathlib import Path

from quantmill.recipe.recipe import VariantSpec
from quantmill.records.artifact import QuantizedTensor
from tasks.engines import placement
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
    """Quantize while loading, then save as safetensors. Everything but the head, embeddings and norms."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    chosen = tensors.choose_bits(spec.layers, source)
    options = {"llm_int8_skip_modules": ["lm_head", *chosen]} if chosen else {}
    if spec.type == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=spec.threshold, **options)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=spec.type,
            bnb_4bit_use_double_quant=spec.double_quant,
            bnb_4bit_compute_dtype=getattr(torch, str(spec.compute_dtype)),
            **options,
        )
    progress("quantize", 0, 1)
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.bfloat16, quantization_config=config, local_files_only=True, **placement.of(spec, device)
    )
    model.save_pretrained(out)
    progress("quantize", 1, 1)
    return tensors.account(source, out, scheme=str(spec.type), left=tensors.left(chosen))
