"""Records that stages exchange: origins, snapshots, token sets, artifacts and stage results.

Every type is frozen and JSON. It names bytes by sha256; the store holds them (a snapshot's can be made again from its origin).
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from quantmill.files.contents import is_licence
from quantmill.files.entries import FileEntry, files_digest
from quantmill.recipe.packing import Format, Packing
from quantmill.recipe.recipe import ModelRequest, TokenRequest, VariantSpec

_FROZEN = ConfigDict(frozen=True, extra="forbid")
COMPANIONS = frozenset(
    ("chat_template.jinja", "chat_template.json", "generation_config.json", "LICENSE", "LICENSE.txt", "NOTICE")
)
"""Companions: files of a model folder on which no weight, no token id and no figure depends."""


def is_companion(name: str) -> bool:
    """Return whether a file of a model folder is one of COMPANIONS, or a licence under another name."""
    return name in COMPANIONS or is_licence(name)


class Architecture(BaseModel):
    """The shape of a model, from its config."""

    model_config = _FROZEN

    name: str = Field(description="Class name in transformers: `LlamaForCausalLM`.")
    model_type: str = Field(description="`llama`, `qwen2`, ...")
    layers: int = Field(ge=1, description="Decoder layers.")
    hidden_size: int = Field(ge=1, description="Width of the residual stream.")
    vocabulary_size: int = Field(ge=1, description="Rows of the output head.")
    experts: int = Field(default=0, ge=0, description="Experts of a layer that a router chooses from; 0: no experts.")
    linear_inputs: tuple[int, ...] = Field(description="Input widths of the decoder's linear layers, ascending.")
    positions: int = Field(
        default=0, ge=0, description="The longest text that its config allows, in tokens; 0: not stated."
    )
    packing: Packing | None = Field(description="How the source's weights are quantized; None: not quantized.")


class Preview(BaseModel):
    """The facts of a source that are known before its weights are read.

    They are enough to reject the source and to estimate the disk space.
    """

    model_config = _FROZEN

    kind: str = Field(description="`gguf` or `folder`.")
    size_bytes: int = Field(ge=0, description="Bytes of the files at the source.")
    download_bytes: int = Field(ge=0, description="Bytes that must be downloaded to this machine.")
    architecture: Architecture = Field(description="From its config or header.")


class Origin(BaseModel):
    """A source as found before any work: enough to fetch it again and to notice a change."""

    model_config = _FROZEN

    request: ModelRequest = Field(description="The requested model.")
    kind: str = Field(description="`gguf` or `folder`.")
    files: tuple[FileEntry, ...] = Field(description="The files at the source.")
    architecture: Architecture = Field(description="From its config or header.")
    license: str = Field(default="", description="SPDX name of the licence; empty: the source states none.")
    resolved: str = Field(
        default="", description="What a movable name was resolved to: a commit on a hub, a version in MLflow."
    )

    @property
    def digest(self) -> str:
        """The digest of the source's files."""
        return files_digest(self.files)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def download_bytes(self) -> int:
        """Bytes that a machine must download before it can work; 0 if the source is on a disk."""
        return self.size_bytes if self.request.remote else 0


class Snapshot(BaseModel):
    """A model folder in bf16 safetensors, ready to quantize.

    The record is a reference: its bytes can be made again from the origin.
    """

    model_config = _FROZEN

    origin: Origin = Field(description="The source that it was made from.")
    files: tuple[FileEntry, ...] = Field(description="The folder's files.")
    source_types: dict[str, str] = Field(default={}, description="For a GGUF source: tensor -> its type in the GGUF.")
    notes: tuple[str, ...] = Field(default=(), description="What taking in the source changed, in words.")
    parameters: int = Field(ge=1, description="Weights in the safetensors files.")

    @property
    def digest(self) -> str:
        """The digest of the folder's files."""
        return files_digest(self.files)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def core_digest(self) -> str:
        """The digest of all files but the companions: weights, token ids and figures depend on them."""
        return files_digest(tuple(file for file in self.files if not is_companion(file.path)))

    @property
    def tokenizer_digest(self) -> str:
        """The sha256 of `tokenizer.json`."""
        return next(file.sha256 for file in self.files if file.path == "tokenizer.json")


class TokenSet(BaseModel):
    """Token windows: a safetensors file with one int32 tensor `input_ids` (windows, sequence_length)."""

    model_config = _FROZEN

    request: TokenRequest = Field(description="The requested text and windows.")
    role: str = Field(description="`calibration` or `evaluation`.")
    text_sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$",
        description="Digest of the text or file that it was drawn from; for several sources the digest of `texts`.",
    )
    texts: tuple[str, ...] = Field(default=(), description="The digest of each source, in the request's order.")
    template_digest: str = Field(default="", description="Digest of the chat template's files; empty: no template.")
    tokenizer_digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest of the tokenizer.")
    file: FileEntry = Field(description="The windows.")

    @property
    def digest(self) -> str:
        """The digest of the windows' file."""
        return self.file.sha256


class QuantizedTensor(BaseModel):
    """How one weight tensor was quantized."""

    model_config = _FROZEN

    name: str = Field(description="The tensor's name in the artifact.")
    scheme: str = Field(description="Its type: `gptq`, `nf4`, `Q6_K`, `bf16`.")
    bits: float = Field(gt=0, description="Stored bits per weight, scales included.")
    parameters: int = Field(ge=1, description="Weights in it.")
    fallback: str = Field(default="", description="Why its type differs from the requested type; empty: it does not.")


class Artifact(BaseModel):
    """A complete folder that a library loads: weights, config, tokenizer, chat template."""

    model_config = _FROZEN

    spec: VariantSpec = Field(description="The requested variant.")
    format: Format = Field(description="File format of the weights.")
    files: tuple[FileEntry, ...] = Field(description="The folder's files.")
    tensors: tuple[QuantizedTensor, ...] = Field(description="Every weight tensor.")
    starved_experts: dict[str, int] = Field(
        default={}, description="`layer.expert` -> calibration tokens, for experts that got fewer than 32."
    )
    recut_ids: int = Field(default=0, ge=0, description="Token ids in runs that llama.cpp splits differently.")
    source_digest: str = Field(description="Digest of the snapshot that it was made from.")
    calibration_digest: str = Field(default="", description="Digest of its calibration token set; empty: none.")
    chat_template_sha256: str = Field(default="", description="Digest of the chat template; empty: none.")
    dressed_from: str = Field(
        default="",
        description="Digest of the artifact that it takes its weights from, with other companions; empty: newly made.",
    )
    toolchain: dict[str, str] = Field(description="Package -> version that made it.")
    hardware: str = Field(description="Processor or GPU that made it.")
    given_up: str = Field(default="", description="What was reduced after a job ran out of memory; empty: nothing.")
    quantize_s: float = Field(ge=0, description="Seconds that the engine worked.")
    peak_memory_bytes: int = Field(ge=0, description="The most memory the job held.")

    @property
    def digest(self) -> str:
        """The digest of the folder's files."""
        return files_digest(self.files)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def made_digest(self) -> str:
        """The digest of the artifact that the engine made: figures belong to it, whatever the companions."""
        return self.dressed_from or self.digest

    @property
    def parameters(self) -> int:
        """Weights in all tensors."""
        return sum(tensor.parameters for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits of the weight files over the number of weights."""
        weights = sum(file.size_bytes for file in self.files if file.path.endswith((".safetensors", ".gguf")))
        return 8 * weights / self.parameters

    @property
    def fallback_share(self) -> float:
        """Share of the weights in tensors whose type differs from the requested type."""
        return sum(tensor.parameters for tensor in self.tensors if tensor.fallback) / self.parameters


class StageResult(BaseModel):
    """The cache's record of one finished stage: its result in JSON and the blobs that it names."""

    model_config = _FROZEN

    stage: str = Field(pattern=r"^[a-z]+$", description="`snapshot`, `artifact`, `trace`, `report`, `speed`, ...")
    key: str = Field(pattern=r"^[0-9a-f]{64}$", description="From the inputs, by `keys.stage_key`.")
    blobs: tuple[FileEntry, ...] = Field(
        default=(), description="Files that the store must hold for the result to be valid."
    )
    value: dict[str, Any] = Field(description="The stage's result.")
    made_at: float = Field(description="Seconds since 1970; stage results expire.")
