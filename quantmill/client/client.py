"""The consumer's side of a store: choose a version, pull it, verify the pulled files.

    from quantmill.client import pull, resolve, verify
    from quantmill.store.places import open_store

    store = open_store("s3://bucket/prefix")
    chosen = resolve(store, "my-model", channel="stable", where="runtime=llama.cpp,memory<12GB", best="quality")
    folder = pull(store, chosen, Path("model"))

A pulled version is an ordinary folder, which loads without Quantmill. `pulled.py` describes its layout on the disk.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from quantmill import signing
from quantmill.client.pulled import Place, Seen, version_folder
from quantmill.client.staging import bring
from quantmill.client.tree import damaged, read_records, require_listing, stamps
from quantmill.client.where import Term, parse
from quantmill.errors import NotFound, RequestError, VerificationError
from quantmill.machine import disk, gpus, processor
from quantmill.records.manifest import Manifest, StoredManifest
from quantmill.records.selection import GOALS, Candidate, Goal, of_manifest, rivals_in_speed
from quantmill.records.selection import best as best_of
from quantmill.signing import Keyring
from quantmill.store.channels import channels, read_held
from quantmill.store.objects import OnBytes, ignore
from quantmill.store.store import Store

__all__ = ["Resolved", "pull", "resolve", "verify"]

_READS_AT_ONCE = 8


class Resolved(BaseModel):
    """The version that `resolve` chose for a request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="The model's name.")
    variant: str = Field(description="The variant's name.")
    digest: str = Field(description="Digest of the manifest: the version.")
    manifest: Manifest = Field(description="The version's manifest.")
    channel: str = Field(default="", description="The channel that holds it; empty: chosen among the newest versions.")
    seq: int = Field(default=0, description="The channel's sequence number; 0: no channel.")
    move: str = Field(default="", description="Digest of the channel's move with that number.")
    data: bytes = Field(
        repr=False, exclude=True, description="The stored bytes of the manifest, which give its digest."
    )

    @property
    def stored(self) -> StoredManifest:
        """The manifest and its bytes."""
        return StoredManifest(self.manifest, self.data)

    @property
    def size_bytes(self) -> int:
        """Bytes of all its files."""
        return sum(file.size_bytes for file in self.manifest.files)


def resolve(
    store: Store,
    model: str,
    channel: str | None = None,
    where: str = "",
    best: Goal = "quality",
    variant: str = "",
    hardware: str = "",
) -> Resolved:
    """Return the version that serves a request best; never a revoked version.

    The candidates are the channel's versions or, without a `channel`, the newest version of each variant. Of those that meet
    `where` (see `where.py`) the version that is `best` is chosen. Speeds are compared within one class of machine: the class whose
    name contains `hardware`, by default the name of this machine's GPU or processor. A named `variant` needs no comparison.

    Raises:
        RequestError: the expression is malformed; nothing was read.
        NotFound: there is no such model, channel or variant, or no version meets the request; the message lists the choices. Or no
            speed was measured on such hardware on a quiet machine; the message lists the classes.
        VerificationError: a record of the store does not match its digest, or is of another version.
        LayoutTooNew: a newer release wrote a needed record in a layout that this release does not know.
    """
    terms = parse(where)
    if best not in GOALS:
        raise RequestError(f"--best: {best!r}: allowed are {', '.join(GOALS)}")
    held = None
    if channel is not None:  # an empty name is a mistake and must not select unpromoted versions
        held = read_held(store, model, channel)
        if held is None:
            known = ", ".join(c.name for c in channels(store, model)) or "no channel"
            raise NotFound(f"{model}: no channel {channel!r} in {store.uri}; it has {known}")
    digests = held.channel.current.variants if held else _newest(store, model)
    if variant and variant not in digests:
        raise NotFound(f"{model}: no variant {variant!r}{_in(channel)}; there is {', '.join(digests) or 'none'}")
    asked = {name: digest for name, digest in digests.items() if variant in ("", name)}
    stored = _standing(store, model, asked)
    if not stored:
        raise NotFound(f"{model}: no version{_in(channel)} can be pulled; {_why_none(store, model, asked)}")
    chosen = _choose(model, [version.manifest for version in stored.values()], terms, best, hardware)
    return Resolved(
        model=model,
        variant=chosen,
        digest=asked[chosen],
        manifest=stored[chosen].manifest,
        data=stored[chosen].data,
        channel=channel or "",
        seq=held.channel.seq if held else 0,
        move=held.move if held else "",
    )


def pull(
    store: Store, resolved: Resolved, to: Path, keyring: Keyring | None = None, on_bytes: OnBytes = ignore
) -> Path:
    """Pull a version into the folder `to`, check every byte, make it current and return its folder.

    `to/current` is swapped in one step after all files are there; before that, and after any error, the version that was current
    stays current. Files from an earlier attempt are not fetched again. If the version is current already, its files are not read
    again: their names, sizes and times must be unchanged since they were read (`verify` reads them).

    Args:
        store: The store that holds the version.
        resolved: The version.
        to: A new or empty folder, or a folder that this model was pulled into before.
        keyring: Trusted keys; a version without their signature is refused. None: no signature is checked.
        on_bytes: Called with the number of bytes that moved; the numbers sum up to `resolved.size_bytes`.

    Raises:
        VerificationError: bytes or signature are wrong, or the channel is at an older state than `to` has seen.
        RequestError: `to` holds other files or another model, or the disk has no room.
        DiskFull: the disk ran full meanwhile.
        StoreError: the store does not answer, or another pull is at work in `to`.
    """
    envelope = store.attestation(resolved.digest)
    if keyring:
        signing.verify(envelope, resolved.stored, keyring)
    place, digest = Place(to), resolved.digest
    tree = place.tree(digest)
    with disk.room_at(to), place.claimed(resolved.model):
        _require_forward(place, resolved)
        if place.current == digest and place.is_untouched(digest) and envelope in (None, read_records(tree)[1]):
            on_bytes(resolved.size_bytes)
        else:
            bring(store, resolved.stored, envelope, place, on_bytes)
        state = place.state()
        seen = {resolved.channel: Seen(seq=resolved.seq, move=resolved.move)} if resolved.channel else {}
        checked = state.checked | {digest: stamps(tree)}
        place.write(state.model_copy(update={"seen": state.seen | seen, "checked": checked}))
        place.swap(digest)
    return tree


def verify(path: Path, keyring: Keyring | None = None) -> Manifest:
    """Read every byte of the version at `path`, check it and return its manifest.

    `path` is a folder that was pulled into (its current version is verified), a version's folder, or a copy of a version's folder.
    The folder must hold exactly the manifest's files: no other file, link, device or folder. If a copy is not named by the
    version's digest, only a signature proves that the manifest is right.

    Raises:
        VerificationError: a file is wrong, missing or not in the manifest, or the signature is wrong.
    """
    tree = version_folder(path)
    version, envelope = read_records(tree)
    if keyring:
        signing.verify(envelope, version, keyring)
    manifest = version.manifest
    require_listing(tree, manifest)
    if wrong := damaged(tree, manifest.files):
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise VerificationError(f"{tree / wrong[0].path}: its bytes are not those of {wrong[0].sha256}{more}")
    return manifest


def _newest(store: Store, model: str) -> dict[str, str]:
    """Return variant -> digest of its newest version that is not revoked, else of its newest version."""
    variants = store.variants(model)

    def newest(variant: str) -> str:
        digests = [version.manifest for version in reversed(store.versions(model, variant))]
        return next((digest for digest in digests if not store.revocation(model, variant, digest)), digests[0])

    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        return dict(zip(variants, pool.map(newest, variants), strict=True))


def _standing(store: Store, model: str, digests: dict[str, str]) -> dict[str, StoredManifest]:
    """Return variant -> stored manifest of the versions that are not revoked.

    Each manifest is checked against its digest and its name.
    """

    def read(item: tuple[str, str]) -> StoredManifest | None:
        variant, digest = item
        if store.revocation(model, variant, digest):
            return None
        version = store.stored_manifest(digest)
        if version.manifest.name != f"{model}/{variant}":
            raise VerificationError(f"manifest {digest}: it is {version.manifest.name!r}, not {model}/{variant}")
        return version

    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        found = zip(digests, pool.map(read, digests.items()), strict=True)
        return {variant: version for variant, version in found if version}


def _choose(model: str, manifests: list[Manifest], terms: tuple[Term, ...], goal: Goal, hardware: str) -> str:
    """Return the best of the variants that meet all terms."""
    rows = [of_manifest(manifest) for manifest in manifests]
    if fitting := [row for row in rows if all(term.holds(row) for term in terms)]:
        if goal == "speed" and len(rows) > 1:
            fitting = rivals_in_speed(fitting, [hardware] if hardware else [*gpus(), processor()])
        return best_of(fitting, goal).name
    raise NotFound(f"{model}: no variant meets {', '.join(t.text for t in terms)}; {'; '.join(_misses(rows, terms))}")


def _misses(rows: list[Candidate], terms: tuple[Term, ...]) -> list[str]:
    """Return for each variant its value for the first term that it does not meet."""
    first = [(row, next(term for term in terms if not term.holds(row))) for row in rows]
    return [f"{row.name}: {term.told(row)}" for row, term in first]


def _why_none(store: Store, model: str, digests: dict[str, str]) -> str:
    found = ((variant, store.revocation(model, variant, digest)) for variant, digest in digests.items())
    return "; ".join(f"{variant} was revoked: {why.reason}" for variant, why in found if why) or "it is empty"


def _in(channel: str | None) -> str:
    return f" in channel {channel!r}" if channel else ""


def _require_forward(place: Place, resolved: Resolved) -> None:
    """Raise VerificationError if the channel is at an older state than the folder has seen.

    A rollback attack would show such a state.
    """
    seen = place.state().seen.get(resolved.channel)
    if seen is None:
        return
    what = f"{resolved.model}/channels/{resolved.channel}.json: sequence {resolved.seq}"
    if resolved.seq < seen.seq:
        raise VerificationError(f"{what} is older than {seen.seq}, which was seen in {place.root}")
    if resolved.seq == seen.seq and resolved.move != seen.move:
        raise VerificationError(f"{what} has other content than was seen in {place.root}")
