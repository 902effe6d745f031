"""Variants: a method with a value for each of its options; `variant_request` makes them from lists."""

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from quantmill.files import keys
from quantmill.recipe.flat import flat_options
from quantmill.recipe.layer_rules import LayerRule
from quantmill.recipe.method_row import AS_IT_IS, Method
from quantmill.recipe.methods import METHODS, MethodName
from quantmill.recipe.options import MethodOptions
from quantmill.recipe.packing import Format, Packing

_FORBID = ConfigDict(frozen=True, extra="forbid")

if TYPE_CHECKING:

    class _Choices(BaseModel):
        """The options of all methods; code reads `options`, which has the method's own types."""

        def __init__(self, **values: Any) -> None: ...

else:
    _Choices = create_model(
        "_Choices",
        **{
            option.name: (option.plain | None, Field(default=None, description=option.description))
            for option in flat_options()
        },
    )


class VariantSpec(_Choices):
    """One variant: a value for every option of its method; the options of other methods are None.

    The options of all methods are fields too, beside the fields below.
    """

    model_config = _FORBID

    method: MethodName = Field(description="The method: a key of METHODS.")
    bits: int = Field(description="Nominal bit width.")
    type: str | None = Field(default=None, description="Named type: `nf4`, `Q4_K_M`.")
    layers: tuple[LayerRule, ...] = Field(default=(), description="Rules for layers with another bit width.")
    packing: Packing | None = Field(default=None, description="Packing of the imported checkpoint.")
    checkpoint: str | None = Field(default=None, description="Digest of the imported checkpoint's files.")

    @property
    def row(self) -> Method:
        """The method's facts."""
        return METHODS[self.method]

    @property
    def maker(self) -> Method:
        """The facts of the method that packed the weights; for an imported checkpoint its own method."""
        return METHODS[self.packing.method] if self.packing else self.row

    @property
    def options(self) -> MethodOptions:
        """The method's own options, typed; an option that this type does not have is at its default."""
        chosen = [(option, getattr(self, option.name)) for option in self.row.options]
        return self.row.choices(**{o.name: value for o, value in chosen if value not in (None, o.default)})

    @property
    def group_size_asked(self) -> int:
        """Weights that share a scale, -1 for a whole row; 0: the method has no groups."""
        return getattr(self, "group_size", None) or 0

    @property
    def source_asked(self) -> str | None:
        """The source of a checkpoint to import, until its packing is read; None: nothing to import."""
        return getattr(self, "source", None)

    @property
    def format(self) -> Format:
        """The artifact's file format."""
        form = self.maker.format
        return "safetensors" if form == AS_IT_IS else form  # before the packing is read

    def found(self, packing: Packing, digest: str) -> "VariantSpec":
        """Return the variant with a checkpoint's packing and digest in place of its source."""
        return self.model_copy(update={"source": None, "packing": packing, "checkpoint": digest, "bits": packing.bits})

    def with_options(self, options: MethodOptions) -> "VariantSpec":
        """Return the variant with other options of its method."""
        return self.model_copy(update=options.model_dump())

    @property
    def name(self) -> str:
        """The variant's name, unique within a recipe: `gptq-4bit-g64`, `gguf-q4_k_m`, `bitsandbytes-nf4`."""
        if self.packing:
            return f"{self.method}-{self.packing.label}"
        if self.source_asked is not None:
            return " ".join(filter(None, (self.method, self.source_asked)))
        chosen = [(option, getattr(self, option.name)) for option in self.row.options]
        told = [(o, value) for o, value in chosen if value is not None and o.is_told(value)]
        told.sort(key=lambda pair: not pair[0].always_named)
        parts = [self.method, self.type.lower() if self.type else f"{self.bits}bit"]
        parts += [option.label(value) for option, value in told]
        if self.layers:
            parts.append("mix" + keys.digest([rule.model_dump() for rule in self.layers])[:6])
        return "-".join(parts)

    def runtime(self, experts: int) -> str:
        """Return the library that loads the artifact of a model with `experts` experts per layer."""
        return self.maker.runtime_of(self.packing.mixed if self.packing else bool(self.layers), experts)

    def canonical(self) -> dict[str, Any]:
        """Return the set options as JSON data for keys; a new option of another method changes no key."""
        return self.model_dump(exclude_none=True, exclude=None if self.layers else {"layers"}, mode="json")
