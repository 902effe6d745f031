"""The recipe: model, texts, variants, gates and publication that a user asks for."""

import re
from typing import get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from quantmill.errors import RecipeError
from quantmill.files.paths import safe_path
from quantmill.recipe.options import GroupSize
from quantmill.recipe.schemes import SCHEMES, last_part, scheme_of
from quantmill.recipe.texts import TokenRequest
from quantmill.recipe.variant_request import VariantRequest
from quantmill.recipe.variants import VariantSpec

__all__ = ["GatePolicy", "ModelRequest", "PublishRequest", "Recipe", "TokenRequest", "VariantRequest", "VariantSpec"]
MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
_FORBID = ConfigDict(frozen=True, extra="forbid")
_NUMBERS = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)  # no `true` for 1, no `.inf`
LEAST_SCORED = 256
"""The least number of scored tokens: with 2 windows of 32 tokens, an unquantized model counts as gibberish in 94 % of draws."""
_PLACE = r"^[^\x00-\x1f]+$"


class ModelRequest(BaseModel):
    """A model and its revision."""

    model_config = _FORBID

    source: str = Field(
        pattern=_PLACE,
        max_length=4096,
        description=f"One of: {'; '.join(f'{row.form} ({row.title})' for row in SCHEMES.values())}.",
        examples=[row.example for row in SCHEMES.values()],
        json_schema_extra={"position": 0},
    )
    revision: str = Field(
        default="",
        description="".join(f"{row.prefix}: {row.revision}. " for row in SCHEMES.values() if row.revision)
        + "Elsewhere: the first digits of the source's digest (sha256); empty: any.",
        pattern=r"^([A-Za-z0-9_][A-Za-z0-9_/+-]*(\.[A-Za-z0-9_/+-]+)*)?$",
        max_length=128,
        examples=["main"],
        json_schema_extra={"position": 1},
    )

    @property
    def remote(self) -> bool:
        """Whether its bytes must be downloaded to this machine before work."""
        row = scheme_of(self.source)
        return row is not None and row.remote


class GatePolicy(BaseModel):
    """The limits that a variant must keep to be accepted; each is inclusive."""

    model_config = _NUMBERS

    max_perplexity_ratio: float = Field(
        default=1.25,
        gt=0,
        description="Perplexity over the baseline's.",
        title="Most perplexity, over the baseline's",
        json_schema_extra={"position": 0},
    )
    max_mean_kl: float = Field(
        default=0.2,
        ge=0,
        description="Mean KL divergence from the baseline, nats per token.",
        title="Most mean KL divergence",
        json_schema_extra={"position": 1},
    )
    max_p99_kl: float = Field(
        default=1e6,
        ge=0,
        description="99th percentile of the KL divergence, nats; the default does not bind.",
        title="Most KL divergence at the 99th percentile",
        json_schema_extra={"position": 2},
    )
    min_top1_agreement: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of positions where baseline and variant rank the same token first.",
        title="Least top-1 agreement",
        json_schema_extra={"position": 3},
    )
    max_size_ratio: float = Field(
        default=1.0,
        gt=0,
        description="Bytes on disk over the baseline's.",
        title="Most bytes, over the baseline's",
        json_schema_extra={"position": 4},
    )


class PublishRequest(BaseModel):
    """The name under which accepted variants are published, and the channel to move."""

    model_config = _FORBID

    model: str = Field(
        default="",
        description="The published model's name; empty: made from the source's last segment.",
        pattern=r"^([a-z0-9][a-z0-9._-]{0,95})?$",
        title="Name",
        examples=["smollm2-135m-instruct"],
        json_schema_extra={"position": 0},
    )
    channel: str = Field(
        default="",
        description="The channel to move to the accepted variants, such as stable; empty: none.",
        pattern=r"^([a-z0-9][a-z0-9._-]{0,63})?$",
        title="Channel",
        examples=["stable"],
        json_schema_extra={"position": 1},
    )
    approval: bool = Field(
        default=False,
        description="Before publishing, wait until somebody resumes the run in the dashboard; only for runs of a server.",
        title="Wait for an approval",
        json_schema_extra={"position": 2},
    )

    @field_validator("model", "channel")
    @classmethod
    def _every_system_can_hold_it(cls, name: str) -> str:
        try:
            return name and safe_path(name)
        except ValueError as error:
            raise ValueError(f"a name that Windows reserves, or that ends with a dot: {name}") from error


class Recipe(BaseModel):
    """One model, its calibration and evaluation texts, the wanted variants, the gates and publication."""

    model_config = _FORBID

    model: ModelRequest = Field(description="The model to compress.", title="Model", json_schema_extra={"position": 0})
    calibration: TokenRequest = Field(
        default=TokenRequest(samples=32, seed=0),
        description="Text for methods that calibrate.",
        title="Calibration",
        json_schema_extra={"position": 4},
    )
    evaluation: TokenRequest = Field(
        default=TokenRequest(samples=16, seed=1),
        description="Text for all measurements; it shares no window with the calibration.",
        title="Evaluation",
        json_schema_extra={"position": 5},
    )
    variants: list[VariantRequest] = Field(
        min_length=1, description="The variants to make.", json_schema_extra={"position": 1}
    )
    gates: GatePolicy = Field(
        default=GatePolicy(),
        description="Limits for accepted variants.",
        title="Gates",
        json_schema_extra={"position": 3},
    )
    publish: PublishRequest = Field(
        default=PublishRequest(),
        description="How accepted variants are published.",
        title="Publish",
        json_schema_extra={"position": 2},
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d{1,2})?)$",
        description="Device of the engines: auto (CUDA if there is a GPU), cpu, cuda or cuda:N.",
        examples=["auto", "cpu", "cuda:1"],
        json_schema_extra={"position": 6},
    )

    @model_validator(mode="after")
    def _each_once(self) -> "Recipe":
        seen: dict[str, int] = {}
        for index, request in enumerate(self.variants):
            for spec in request.expand():
                if spec.name in seen:
                    raise ValueError(
                        f"variants[{index}]: {spec.name} is already requested in variants[{seen[spec.name]}]"
                    )
                seen[spec.name] = index
        return self

    @model_validator(mode="after")
    def _enough_to_judge_by(self) -> "Recipe":
        asked = self.evaluation
        if (scored := asked.samples * (asked.sequence_length - 1)) < LEAST_SCORED:
            raise ValueError(
                f"evaluation.samples: {asked.samples} windows of {asked.sequence_length} tokens score {scored} tokens, at"
                f" least {LEAST_SCORED} are needed to judge a model by; take more windows, or longer ones"
            )
        return self

    @property
    def model_name(self) -> str:
        """The name that accepted variants are published under."""
        return self.publish.model or default_model_name(self.model.source)

    def expand(self, linear_inputs: tuple[int, ...] = ()) -> list[VariantSpec]:
        """Return the variants in the recipe's order.

        Args:
            linear_inputs: the input widths of the model's quantized linear layers; empty: not known yet.

        Raises:
            RecipeError: a group size does not divide a layer's input width.
        """
        specs = []
        for index, request in enumerate(self.variants):
            for spec in request.expand():
                size = spec.group_size_asked
                bad = [width for width in linear_inputs if size > 0 and width % size]
                if bad:
                    fits = [str(g) for g in get_args(GroupSize) if g > 0 and not any(w % g for w in linear_inputs)]
                    raise RecipeError(
                        f"variants[{index}].group_size: {size} does not divide the model's layer width {bad[0]};"
                        f" allowed for this model: {', '.join(['-1', *fits])}"
                    )
                specs.append(spec)
        return specs


def default_model_name(source: str) -> str:
    """Return the default published name: the source's name in lower case, other characters as `-`.

    Raises:
        RecipeError: no name can be made from the source.
    """
    row = scheme_of(source)
    called = (row.model_name if row else last_part)(source).lower().removesuffix(".gguf")
    name = re.sub(r"[^a-z0-9._-]+", "-", called).lstrip("._-")[:96]
    if not MODEL_NAME.fullmatch(name):
        raise RecipeError(
            f"publish.model: no name can be made from {source!r}; give one that matches {MODEL_NAME.pattern}"
        )
    return name
