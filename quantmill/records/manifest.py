"""What was published: the manifest (identity: what it is and what it was made from) and its provenance (circumstance).

The manifest's digest names a version, so it holds no run id and no timestamp: the same measurement decided the same way twice
is the same version.
"""

import hashlib
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from quantmill.files import keys
from quantmill.files.entries import FileEntry, require_distinct
from quantmill.records.report import BaselineMetrics, Quality, Speed

_FROZEN = ConfigDict(frozen=True, extra="forbid")

CARD_PATH = "README.md"
"""The model card in a published folder."""
MANIFEST_PATH = ".quantmill/manifest.json"
ATTESTATION_PATH = ".quantmill/attestation.dsse.json"
"""Where a folder that was pulled holds them, beside just the manifest's files."""


class ManifestModel(BaseModel):
    """The base model."""

    model_config = _FROZEN

    uri: str = Field(description="The source as the recipe named it.")
    revision: str = Field(description="Digest of the source's files.")
    files: tuple[FileEntry, ...] = Field(description="The source's files.")
    notes: tuple[str, ...] = Field(default=(), description="What was changed on the way in.")


class ManifestEvaluation(BaseModel):
    """The figures that the gate saw."""

    model_config = _FROZEN

    suite: str = Field(description="Digest of the evaluation windows.")
    metrics: Quality
    speed: Speed
    bits_per_weight: float
    gate: dict[str, float] = Field(description="The limits in force.")
    report_sha256: str = Field(description="Digest of the full report.")
    # Versions of before they were recorded keep their digests: what is not known is left out of the canonical JSON.
    perplexity_ratio: float | None = Field(
        default=None, exclude_if=lambda ratio: ratio is None, description="Perplexity over the baseline's."
    )
    runtime: str = Field(
        default="", exclude_if=lambda name: not name, description="The library that loaded it while it was measured."
    )
    windows: dict[str, Any] = Field(
        default={}, exclude_if=lambda said: not said, description="The token set that it was measured on."
    )
    baseline: BaselineMetrics | None = Field(
        default=None,
        exclude_if=lambda figures: figures is None,
        description="The unquantized model's figures beside it.",
    )
    marks: tuple[str, ...] = Field(
        default=(), exclude_if=lambda marks: not marks, description="What qualifies the figures, as in a run's summary."
    )


class Safety(BaseModel):
    """What a consumer may rely on before it opens anything."""

    model_config = _FROZEN

    formats: tuple[str, ...] = Field(description="File endings in the folder.")
    remote_code: bool = Field(default=False, description="Always false: no artifact needs code of its own.")
    chat_template_sha256: str = Field(default="", description="Digest of the chat template; empty: none.")


class Manifest(BaseModel):
    """One published version of one variant."""

    model_config = _FROZEN

    schema_version: int = Field(default=1, description="This layout.")
    name: str = Field(description="model/variant.")
    key: str = Field(description="Stage key of the artifact.")
    model: ManifestModel
    variant: dict[str, Any] = Field(description="The canonical spec, with its format.")
    recipe_sha256: str = Field(description="Digest of what of the recipe concerns this variant.")
    calibration: dict[str, Any] = Field(default={}, description="The token set that the method saw; empty: none.")
    toolchain: dict[str, str] = Field(description="Package -> version.")
    hardware: str
    evaluation: ManifestEvaluation
    files: tuple[FileEntry, ...] = Field(description="The folder's files: exactly these.")
    safety: Safety
    license: str = ""

    @field_validator("files")
    @classmethod
    def _one_folder(cls, files: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
        """Refuse files that cannot lie in one folder, and the place where a pulled folder has its manifest."""
        require_distinct(files)
        ours = MANIFEST_PATH.partition("/")[0]
        if taken := [file.path for file in files if file.path.partition("/")[0].casefold() == ours]:
            raise ValueError(f"{taken[0]!r}: {ours} is not the model's")
        return files

    @property
    def digest(self) -> str:
        """The sha256 of the canonical JSON: the name of a version that is written here. One that was read: `StoredManifest`."""
        return keys.digest(self)


class StoredManifest(NamedTuple):
    """A manifest that was read. Its name is made of the bytes: a newer release's may hold more than is known here."""

    manifest: Manifest
    data: bytes
    """As it is stored: canonical JSON."""

    @property
    def digest(self) -> str:
        """The sha256 of the bytes: the version's name."""
        return hashlib.sha256(self.data).hexdigest()

    @classmethod
    def of(cls, manifest: Manifest) -> "StoredManifest":
        """Return a manifest as it is about to be stored."""
        return cls(manifest, keys.canonical(manifest))


class Provenance(BaseModel):
    """How a version came to be; two runs of the same version differ here only."""

    model_config = _FROZEN

    manifest: str = Field(description="Digest of the manifest.")
    recipe: dict[str, Any] = Field(description="The whole recipe.")
    flow_run: str = ""
    builder: str = Field(default="urn:quantmill:this-machine", description="Where it ran, as a URI.")
    resolved: str = Field(default="", description="The commit or version that the model's name stood for.")
    lock_sha256: str = Field(default="", description="Digest of the lock that the packages were installed from.")
    started_at: float | None = Field(
        default=None,
        allow_inf_nan=False,
        exclude_if=lambda began: began is None,
        description="When the run began, seconds since 1970; None: versions of before it was recorded.",
    )
    made_at: float = Field(allow_inf_nan=False, description="Seconds since 1970.")


class Version(BaseModel):
    """A version pointer: the commit point of a publish."""

    model_config = _FROZEN

    model: str
    variant: str
    manifest: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest of the manifest.")
    provenance: Provenance


class Revocation(BaseModel):
    """A version that was withdrawn: it is never handed out again."""

    model_config = _FROZEN

    manifest: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest of the manifest.")
    reason: str = Field(min_length=1, description="Why, in words.")
    made_at: float = Field(description="Seconds since 1970.")
