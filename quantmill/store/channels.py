"""Channels: names such as `stable` that say which versions of a model's variants are current.

A channel is one object that holds its history. Writers move a channel by compare-and-swap. Its sequence number only grows, also
when a rollback restores an earlier state: a reader that has seen a number rejects smaller numbers.
"""

import random
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quantmill.errors import NotFound, RequestError, StoreError, VerificationError
from quantmill.files import keys
from quantmill.files.paths import safe_name
from quantmill.records.manifest import Revocation
from quantmill.store import stored
from quantmill.store.layout import MODELS
from quantmill.store.store import Store

MOVES_KEPT = 100
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_ATTEMPTS = 60


class Move(BaseModel):
    """One state of a channel: variant -> version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seq: int = Field(ge=1, description="1 for the first move; each move adds 1.")
    id: str = Field(description="Random id, by which a writer recognizes its own move after a lost answer.")
    made_at: float = Field(allow_inf_nan=False, description="When the move was made, seconds since 1970.")
    reason: str = Field(description="Why, in words.")
    variants: dict[_Name, _Digest] = Field(description="Variant -> digest of its current manifest.")


class Channel(BaseModel):
    """A channel with the history of its moves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="The channel's name, such as `stable`.")
    moves: tuple[Move, ...] = Field(min_length=1, description="Oldest first; the last move is the current state.")

    @property
    def current(self) -> Move:
        """The current state: the last move."""
        return self.moves[-1]

    @property
    def seq(self) -> int:
        """The sequence number of the current state."""
        return self.current.seq


class HeldChannel(NamedTuple):
    """A channel with its stored form."""

    channel: Channel
    document: dict[str, Any]
    """The stored JSON; a newer release may have written fields that this release does not know."""
    tag: str
    """The object's tag, for `swap`."""
    move: str
    """Digest of the current move with its unknown fields: a sequence number always means the same content."""


def read_channel(store: Store, model: str, name: str) -> Channel | None:
    """Return a channel, or None if nothing was ever promoted to it; raises as `read_held` does."""
    held = read_held(store, model, name)
    return held.channel if held else None


def read_held(store: Store, model: str, name: str) -> HeldChannel | None:
    """Return a channel with its stored form, or None if nothing was ever promoted to it.

    Raises:
        LayoutTooNew: a newer release wrote the channel in a layout that this release does not know.
        VerificationError: the object is damaged, or is another channel.
    """
    key = _key(model, name)
    held, where = store.objects.read(key), f"{store.uri}/{key}"
    if held is None:
        return None
    channel = stored.parse(Channel, held.data, where, "a channel")
    if (channel.model, channel.name) != (model, name):
        raise VerificationError(f"{where}: it is the channel {channel.model}/{channel.name}")
    document = stored.document(held.data, where, "a channel")
    try:
        return HeldChannel(channel, document, held.tag, keys.digest(document["moves"][-1]))
    except ValueError as error:
        raise VerificationError(f"{where}: not a channel: holds a figure that is NaN or infinite") from error


def channels(store: Store, model: str) -> list[Channel]:
    """Return a model's channels by name.

    Raises:
        StoreError: a listed channel cannot be read.
    """
    names = [item.key.rpartition("/")[2].removesuffix(".json") for item in store.objects.under(_folder(model))]
    found = [(name, read_channel(store, model, name)) for name in names]
    if lost := [name for name, channel in found if channel is None]:  # nothing ever removes a channel
        raise StoreError(f"{store.uri}/{_key(model, lost[0])}: is listed, but cannot be read")
    return [channel for _, channel in found if channel]


def promote(store: Store, model: str, name: str, variants: Mapping[str, str], reason: str) -> Channel:
    """Make versions (variant -> manifest digest) current in a channel; its other variants stay unchanged.

    Raises:
        NotFound: a version is not published, or was revoked.
        RequestError: the channel's name is not allowed.
        StoreError: other writers kept moving the channel.
    """
    if not variants:
        raise RequestError(f"{model}/{name}: no version named to promote")
    with store.leases.holding(variants.values()):
        return _promote(store, model, name, variants, reason)


def _promote(store: Store, model: str, name: str, variants: Mapping[str, str], reason: str) -> Channel:
    for variant, digest in variants.items():
        if digest not in {version.manifest for version in store.versions(model, variant)}:
            raise NotFound(f"{model}/{variant}: no published version {digest}")
        if revoked := store.revocation(model, variant, digest):
            raise NotFound(f"{model}/{variant}: version {digest[:12]} was revoked: {revoked.reason}")

    def next_state(now: Channel | None) -> dict[str, str]:
        return (now.current.variants if now else {}) | dict(variants)

    return _move(store, model, name, reason, next_state)


def roll_back(store: Store, model: str, name: str, reason: str, to: int = 0) -> Channel:
    """Make the state of sequence number `to` current again; 0: the state before the last move.

    Raises:
        NotFound: there is no such channel, its history does not reach back so far, or the state holds a revoked version.
    """

    def next_state(now: Channel | None) -> dict[str, str]:
        known = {move.seq: move.variants for move in now.moves} if now else {}
        wanted = to or (now.seq - 1 if now else 0)
        if wanted not in known:
            raise NotFound(
                f"{model}/{name}: no move {wanted} to go back to; known: {', '.join(map(str, known)) or 'none'}"
            )
        for variant, digest in known[wanted].items():
            if revoked := store.revocation(model, variant, digest):
                raise NotFound(
                    f"{model}/{name}: move {wanted} holds {variant}@{digest[:12]}, which was revoked: {revoked.reason};"
                    " go back to another move, or promote other versions"
                )
        return known[wanted]

    return _move(store, model, name, reason, next_state)


def drop(store: Store, model: str, name: str, digest: str, reason: str) -> Channel | None:
    """Take a version out of a channel; its variant goes back to its previous version, if any.

    Revoked versions are skipped. Returns None if the channel does not hold the version.
    """
    channel = read_channel(store, model, name)
    if channel is None or digest not in channel.current.variants.values():
        return None

    def next_state(now: Channel | None) -> dict[str, str]:
        moves = now.moves if now else ()
        kept = dict(moves[-1].variants) if moves else {}
        for variant in [variant for variant, held in kept.items() if held == digest]:
            del kept[variant]
            before = [move.variants[variant] for move in reversed(moves) if variant in move.variants]
            stands = (held for held in before if held != digest and not store.revocation(model, variant, held))
            if earlier := next(stands, None):
                kept[variant] = earlier
        return kept

    return _move(store, model, name, reason, next_state)


def withdraw(store: Store, model: str, variant: str, digest: str, reason: str) -> list[Channel]:
    """Revoke a version for good, take it out of all channels and return the moved channels; see `drop`.

    A version that was revoked before keeps its first reason; channels that still hold the version are moved now.
    """
    store.revoke(model, variant, Revocation(manifest=digest, reason=reason, made_at=time.time()))
    dropped = [drop(store, model, channel.name, digest, f"revoked: {reason}") for channel in channels(store, model)]
    return [channel for channel in dropped if channel]


def _move(
    store: Store, model: str, name: str, reason: str, next_state: Callable[[Channel | None], dict[str, str]]
) -> Channel:
    """Add a move by compare-and-swap; after a lost race, retry after a random pause."""
    mine = secrets.token_hex(8)
    for attempt in range(_ATTEMPTS):
        held = read_held(store, model, name)
        now = held.channel if held else None
        if now and any(move.id == mine for move in now.moves):
            return now  # the write succeeded; only its answer was lost
        moves = now.moves if now else ()
        seq = moves[-1].seq + 1 if moves else 1
        move = Move(seq=seq, id=mine, made_at=time.time(), reason=reason, variants=next_state(now))
        try:
            moved = Channel(model=model, name=name, moves=(*moves, move)[-MOVES_KEPT:])
        except ValidationError as error:
            raise RequestError(f"channel: {name!r}: lower case letters, digits, '.', '_', '-', at most 64") from error
        data, key = _written(move, held, moved), _key(model, name)
        if store.objects.swap(key, data, held.tag) if held else store.objects.create(key, data):
            return moved
        time.sleep(random.uniform(0, min(1.0, 0.01 * 2**attempt)))
    raise StoreError(f"{model}/{name}: other writers moved the channel {_ATTEMPTS} times meanwhile; try again")


def _written(move: Move, held: HeldChannel | None, moved: Channel) -> bytes:
    """Return the bytes of a channel with one more move; fields of newer releases are kept."""
    if held is None:
        return keys.canonical(moved)
    moves = [*held.document["moves"], move.model_dump(mode="json")]
    return keys.canonical(held.document | {"moves": moves[-MOVES_KEPT:]})


def _folder(model: str) -> str:
    return f"{MODELS}{_name(model)}/channels/"


def _key(model: str, name: str) -> str:
    return f"{_folder(model)}{_name(name)}.json"


def _name(name: str) -> str:
    try:
        return safe_name(name)
    except ValueError as error:
        raise RequestError(f"{name!r}: not a plain name") from error
