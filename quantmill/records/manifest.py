"""Records of published versions: the manifest (identity, inputs) and its provenance (circumstances).

The manifest's digest names a version, so the manifest holds no run id and no timestamp: two runs with the same measurements
and the same decision give the same version.
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
"""Paths of manifest and attestation in a pulled folder; all its other files are listed in the manifest."""


class ManifestModel(BaseModel):
    """The base model."""

    model_config = _FROZEN

    uri: str = Field(description="The source's address, as in the recipe.")
    revision: str = Field(description="Digest of the source's files.")
    files: tuple[FileEntry, ...] = Field(description="The source's files.")
    notes: tuple[str, ...] = Field(default=(), description="What taking in the source changed, in words.")


class ManifestEvaluation(BaseModel):
    """The figures that the gate judged."""

    model_config = _FROZEN

    suite: str = Field(description="Digest of the evaluation windows.")
    metrics: Quality
    speed: Speed
    bits_per_weight: float
    gate: dict[str, float] = Field(description="The limits in force.")
    report_sha256: str = Field(description="Digest of the full report.")
    # These fields came later. An older manifest keeps its digest: an unknown value is left out of the canonical JSON.
    perplexity_ratio: float | None = Field(
        default=None, exclude_if=lambda ratio: ratio is None, description="Perplexity over the baseline's."
    )
    runtime: str = Field(
        default="", exclude_if=lambda name: not name, description="The library that it was measured with."
    )
    windows: dict[str, Any] = Field(
        default={}, exclude_if=lambda said: not said, description="The evaluation token set."
    )
    baseline: BaselineMetrics | None = Field(
        default=None,
        exclude_if=lambda figures: figures is None,
        description="The unquantized model's figures.",
    )
    marks: tuple[str, ...] = Field(
        default=(), exclude_if=lambda marks: not marks, description="What qualifies the figures, as in a run's summary."
    )


class Safety(BaseModel):
    """What a consumer may rely on before it opens a file."""

    model_config = _FROZEN

    formats: tuple[str, ...] = Field(description="File endings in the folder.")
    remote_code: bool = Field(default=False, description="Always false: no artifact brings code that must run.")
    chat_template_sha256: str = Field(default="", description="Digest of the chat template; empty: none.")


class Manifest(BaseModel):
    """One published version of one variant."""

    model_config = _FROZEN

    schema_version: int = Field(default=1, description="Number of this layout.")
    name: str = Field(description="model/variant.")
    key: str = Field(description="Stage key of the artifact.")
    model: ManifestModel
    variant: dict[str, Any] = Field(description="The canonical spec, with its format.")
    recipe_sha256: str = Field(description="Digest of the parts of the recipe that concern this variant.")
    calibration: dict[str, Any] = Field(default={}, description="The calibration token set; empty: none.")
    toolchain: dict[str, str] = Field(description="Package -> version.")
    hardware: str
    evaluation: ManifestEvaluation
    files: tuple[FileEntry, ...] = Field(description="The folder's files: exactly these.")
    safety: Safety
    license: str = ""

    @field_validator("files")
    @classmethod
    def _one_folder(cls, files: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
        """Reject paths that cannot share one folder, and paths below `.quantmill`."""
        require_distinct(files)
        ours = MANIFEST_PATH.partition("/")[0]
        if taken := [file.path for file in files if file.path.partition("/")[0].casefold() == ours]:
            raise ValueError(f"{taken[0]!r}: {ours} is not the model's")
        return files

    @property
    def digest(self) -> str:
        """The sha256 of the canonical JSON: the name of a version that this release writes.

        For a manifest that was read from a store, use `StoredManifest.digest`.
        """
        return keys.digest(self)


class StoredManifest(NamedTuple):
    """A manifest with its stored bytes.

    Its digest is of the bytes, because a manifest of a newer release may hold fields that this release does not know.
    """

    manifest: Manifest
    data: bytes
    """The stored bytes: canonical JSON."""

    @property
    def digest(self) -> str:
        """The sha256 of the bytes: the version's name."""
        return hashlib.sha256(self.data).hexdigest()

    @classmethod
    def of(cls, manifest: Manifest) -> "StoredManifest":
        """Return a manifest together with the bytes to store."""
        return cls(manifest, keys.canonical(manifest))


class Provenance(BaseModel):
    """How a version came to be; two runs that give the same version differ only here."""

    model_config = _FROZEN

    manifest: str = Field(description="Digest of the manifest.")
    recipe: dict[str, Any] = Field(description="The whole recipe.")
    flow_run: str = ""
    builder: str = Field(default="urn:quantmill:this-machine", description="The builder's URI.")
    resolved: str = Field(default="", description="The commit or version that the model's name was resolved to.")
    lock_sha256: str = Field(default="", description="Digest of the lock that the packages were installed from.")
    started_at: float | None = Field(
        default=None,
        allow_inf_nan=False,
        exclude_if=lambda began: began is None,
        description="When the run began, seconds since 1970; None: not recorded (older versions).",
    )
    made_at: float = Field(allow_inf_nan=False, description="When the version was made, seconds since 1970.")


class Version(BaseModel):
    """A version pointer: the commit point of a publish."""

    model_config = _FROZEN

    model: str
    variant: str
    manifest: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest of the manifest.")
    provenance: Provenance


class Revocation(BaseModel):
    """A record that a version was withdrawn: nobody can pull it again."""

    model_config = _FROZEN

    manifest: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest of the manifest.")
    reason: str = Field(min_length=1, description="Why, in words.")
    made_at: float = Field(description="Seconds since 1970.")
