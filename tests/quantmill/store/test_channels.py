"""Channels: compare-and-swap, a sequence that only grows, rollback, and versions that were revoked."""

import threading
import time

import pytest

import tasks.publish.publish
from quantmill.errors import NotFound, RequestError, VerificationError
from quantmill.recipe.recipe import Recipe
from quantmill.records.manifest import Revocation
from quantmill.store import channels
from quantmill.store.places import open_store
from quantmill.store.store import Store
from tests.samples import manifest, version


@pytest.fixture
def store(place: str) -> Store:
    return open_store(place)


def publish(store: Store, variant: str, hardware: str = "") -> str:
    made = manifest((), name=f"m/{variant}").model_copy(update={"hardware": hardware})
    store.commit(made, version(made, variant=variant))
    return made.digest


def revoke(store: Store, variant: str, digest: str) -> None:
    store.revoke("m", variant, Revocation(manifest=digest, reason="it rambles", made_at=time.time()))


def test_promotion_keeps_the_other_variants(store: Store) -> None:
    first, second = publish(store, "a"), publish(store, "b")
    assert channels.read_channel(store, "m", "stable") is None
    channels.promote(store, "m", "stable", {"a": first}, "landed")
    moved = channels.promote(store, "m", "stable", {"b": second}, "landed too")
    assert moved == channels.read_channel(store, "m", "stable")
    assert (moved.seq, moved.current.variants) == (2, {"a": first, "b": second})
    assert [channel.name for channel in channels.channels(store, "m")] == ["stable"]


def test_going_back_is_a_move_forward(store: Store) -> None:
    old, new = publish(store, "a"), publish(store, "a", "x")
    channels.promote(store, "m", "stable", {"a": old}, "first")
    channels.promote(store, "m", "stable", {"a": new}, "second")
    moved = channels.roll_back(store, "m", "stable", "slow")
    assert (moved.seq, moved.current.variants, moved.current.reason) == (3, {"a": old}, "slow")
    assert channels.roll_back(store, "m", "stable", "no, fine", to=2).current.variants == {"a": new}
    with pytest.raises(NotFound, match="no move 9 to go back to; known: 1, 2, 3, 4"):
        channels.roll_back(store, "m", "stable", "?", to=9)
    with pytest.raises(NotFound, match="known: none"):
        channels.roll_back(store, "m", "nightly", "?")


def test_what_is_not_published_or_was_revoked_is_not_promoted(store: Store) -> None:
    digest = publish(store, "a")
    with pytest.raises(NotFound, match="no published version"):
        channels.promote(store, "m", "stable", {"a": "ab" * 32}, "?")
    revoke(store, "a", digest)
    with pytest.raises(NotFound, match="was revoked: it rambles"):
        channels.promote(store, "m", "stable", {"a": digest}, "?")
    assert channels.read_channel(store, "m", "stable") is None


def test_a_dropped_version_gives_way_to_the_newest_that_stands(store: Store) -> None:
    digests = [publish(store, "a", hardware) for hardware in ("1", "2", "3")]
    other = publish(store, "b")
    for digest in digests:
        channels.promote(store, "m", "stable", {"a": digest, "b": other}, "landed")
    revoke(store, "a", digests[1])
    moved = channels.drop(store, "m", "stable", digests[2], "revoked")
    assert moved is not None
    assert moved.current.variants == {"a": digests[0], "b": other}
    emptied = channels.drop(store, "m", "stable", digests[0], "revoked")
    assert emptied is not None
    assert emptied.current.variants == {"a": digests[2], "b": other}, "it was not revoked, only dropped"
    assert channels.drop(store, "m", "stable", digests[0], "again") is None


def test_nobody_goes_back_to_what_was_revoked(store: Store) -> None:
    """A channel that held it would serve nobody: clients refuse it."""
    old, bad = publish(store, "a"), publish(store, "a", "x")
    channels.promote(store, "m", "stable", {"a": old}, "first")
    channels.promote(store, "m", "stable", {"a": bad}, "second")
    channels.withdraw(store, "m", "a", bad, "it rambles")
    with pytest.raises(
        NotFound, match=r"m/stable: move 2 holds a@.*, which was revoked: it rambles; go back to another"
    ):
        channels.roll_back(store, "m", "stable", "before the last move")
    assert channels.roll_back(store, "m", "stable", "as at first", to=1).current.variants == {"a": old}


@pytest.mark.parametrize("name", ["..", "a/b", "Stable", "", "x" * 65])
def test_names_are_plain(store: Store, name: str) -> None:
    digest = publish(store, "a")
    with pytest.raises(RequestError):
        channels.promote(store, "m", name, {"a": digest}, "?")


def test_a_damaged_channel_is_not_believed(store: Store) -> None:
    channels.promote(store, "m", "stable", {"a": publish(store, "a")}, "landed")
    held = store.objects.read("models/m/channels/stable.json")
    assert held is not None
    store.objects.create("models/m/channels/other.json", held.data)
    with pytest.raises(VerificationError, match="it is the channel m/stable"):
        channels.read_channel(store, "m", "other")
    store.objects.replace("models/m/channels/stable.json", b"{")
    with pytest.raises(VerificationError, match="not a channel"):
        channels.read_channel(store, "m", "stable")


def test_fault_13_sixteen_publishers_lose_no_update(store: Store) -> None:
    digests = {f"v{n}": publish(store, f"v{n}") for n in range(16)}
    start = threading.Barrier(16)

    def move(variant: str) -> None:
        start.wait()
        channels.promote(store, "m", "stable", {variant: digests[variant]}, variant)

    threads = [threading.Thread(target=move, args=(variant,)) for variant in digests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    channel = channels.read_channel(store, "m", "stable")
    assert channel is not None
    assert channel.current.variants == digests
    assert [move.seq for move in channel.moves] == list(range(1, 17))


def test_a_run_moves_its_channel_only_to_what_it_never_held(store: Store) -> None:
    """A rerun finds its versions there and moves nothing, also where somebody rolled back meanwhile."""
    recipe = Recipe.model_validate(
        {
            "model": {"source": "./m"},
            "variants": [{"method": "gguf", "type": "Q8_0"}],
            "publish": {"model": "m", "channel": "stable"},
        }
    )
    first, second = (publish(store, "v", name) for name in ("first", "second"))
    assert tasks.publish.publish.promote(recipe, {}, store) == 0
    assert tasks.publish.publish.promote(recipe, {"v": first}, store) == 1
    assert tasks.publish.publish.promote(recipe, {"v": first}, store) == 1
    assert tasks.publish.publish.promote(recipe, {"v": second}, store) == 2
    channels.roll_back(store, "m", "stable", "rambles")
    assert tasks.publish.publish.promote(recipe, {"v": second}, store) == 3
    held = channels.read_channel(store, "m", "stable")
    assert held
    assert held.current.variants == {"v": first}
    silent = recipe.model_copy(update={"publish": recipe.publish.model_copy(update={"channel": ""})})
    assert tasks.publish.publish.promote(silent, {"v": second}, store) == 0
