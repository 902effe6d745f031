"""Side records: later facts about a published version, each in an object of its own.

A manifest's digest is the version's name, so a manifest can never change. Each side record is a small object that is created once
and never replaced, `models/<model>/<variant>/records/<manifest digest>/<kind>-<n>.json`. The record repeats its kind, its
number and the manifest's digest, so that a copy under another name is noticed. Objects with other names in that folder are
ignored; the name `<kind>-<n>.dsse.json` is reserved for a record's signature.
"""

import re
import time
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from quantmill.errors import LayoutTooNew, StoreError, VerificationError
from quantmill.files import keys
from quantmill.store import stored
from quantmill.store.layout import records_folder
from quantmill.store.objects import Objects, require_modest

LAYOUT = 1
_KIND = "[a-z][a-z0-9]*(?:-[a-z0-9]+)*"
_NAME = re.compile(rf"({_KIND})-([1-9][0-9]{{0,8}})\.json")
_ATTEMPTS = 100


class SideRecord(BaseModel):
    """One side record."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    layout: int = Field(default=LAYOUT, ge=1, description="Number of the record's layout.")
    kind: str = Field(pattern=f"^{_KIND}$", description="The kind of record, such as `certificate`.")
    number: int = Field(ge=1, description="Number among the version's records of this kind, from 1.")
    manifest: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest of the version's manifest.")
    made_at: float = Field(
        default=0.0, allow_inf_nan=False, description="When it was made, seconds since 1970; 0: unknown."
    )
    content: dict[str, Any] = Field(default={}, alias="value", description="The record's content; read it as `value`.")

    @property
    def is_too_new(self) -> bool:
        """Whether a newer release wrote the record in a layout that this release does not know."""
        return self.layout > LAYOUT

    @property
    def value(self) -> dict[str, Any]:
        """The record's content.

        Raises:
            LayoutTooNew: the record has a layout that this release does not know.
        """
        if self.is_too_new:
            raise LayoutTooNew(
                f"{self.kind}-{self.number} of version {self.manifest[:12]}: layout {self.layout}; "
                f"this release reads {LAYOUT}"
            )
        return self.content


def add(objects: Objects, model: str, variant: str, digest: str, kind: str, value: dict[str, Any]) -> SideRecord:
    """Write a side record of a version under the next free number of its kind, and return the record.

    Raises:
        ValueError: the kind is not a plain word, or the value is not JSON or holds NaN.
        VerificationError: the value has too many parts.
        StoreError: other writers kept taking the numbers.
    """
    first = 1 + max((n for _, name, n in _listed(objects, model, variant, digest) if name == kind), default=0)
    for number in range(first, first + _ATTEMPTS):
        made = SideRecord(kind=kind, number=number, manifest=digest, made_at=time.time(), content=value)
        key = f"{records_folder(model, variant, digest)}{kind}-{number}.json"
        data = keys.canonical(made.model_dump(by_alias=True))  # not as pydantic's JSON, in which NaN becomes null
        if objects.create(key, require_modest(data, key)):
            return made
    raise StoreError(f"{objects.uri}/{key}: other writers took {_ATTEMPTS} numbers meanwhile; try again")


def read(objects: Objects, model: str, variant: str, digest: str) -> tuple[SideRecord, ...]:
    """Return a version's side records by kind and number, also those of unknown kinds and layouts.

    Raises:
        VerificationError: a record is damaged, or is a copy of another record.
    """
    found = []
    for key, kind, number in _listed(objects, model, variant, digest):
        if held := objects.read(key):
            found.append(_read(held.data, f"{objects.uri}/{key}", kind, number, digest))
    return tuple(sorted(found, key=lambda record: (record.kind, record.number)))


def _listed(objects: Objects, model: str, variant: str, digest: str) -> Iterator[tuple[str, str, int]]:
    """Yield key, kind and number of each side record of a version."""
    for listed in objects.under(records_folder(model, variant, digest)):
        if name := _NAME.fullmatch(listed.key.rpartition("/")[2]):
            yield listed.key, name[1], int(name[2])


def _read(data: bytes, where: str, kind: str, number: int, digest: str) -> SideRecord:
    layout = stored.layout_of(stored.document(data, where, "a side record"), where, "layout")
    if layout > LAYOUT:  # its other fields are unknown
        return SideRecord(layout=layout, kind=kind, number=number, manifest=digest)
    record = stored.parse(SideRecord, data, where, "a side record")
    if (record.kind, record.number, record.manifest) != (kind, number, digest):
        raise VerificationError(f"{where}: it is {record.kind}-{record.number} of version {record.manifest[:12]}")
    return record
