"""A store that users share, or with incomplete listings: unreadable parts and links stop a command."""

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quantmill.cli import app
from quantmill.client import tree
from quantmill.errors import QuantmillError, StoreError, VerificationError
from quantmill.files import contents
from quantmill.s3.listing import pages
from quantmill.store import channels
from quantmill.store.collect import Rules, collect
from quantmill.store.places import open_store
from quantmill.store.sharing import Sharing
from tasks.source import snapshots
from tests.proxy import Fault, Proxy, proxy
from tests.published import publish
from tests.s3_server import S3Server
from tests.users import DAY_S, GROUP, ROOT, User

IS_ROOT = os.geteuid() == 0
NOTHING_KEPT = ("--grace", "1", "--retention-days", "0", "--newest", "1")
needs_root = pytest.mark.skipif(not IS_ROOT, reason="two users need root, who can become either")


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that other users may enter, as pytest's own are closed."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        Path(place).chmod(0o755)
        yield Path(place)


@pytest.fixture(scope="module")
def users() -> Iterator[tuple[User, User]]:
    """Two users, whose umask lets nobody in; where this is not root both are this user."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        Path(place).chmod(0o755)
        both = User(1, Path(place) / "1"), User(2, Path(place) / "2")
        yield both
        for user in both:
            user.leaves()


def shared(store: Path, mode: int = 0o2770) -> Path:
    """Make a store's folder as somebody does who wants to share it."""
    store.mkdir()
    if IS_ROOT:
        os.chown(store, GROUP + 1, GROUP)
    store.chmod(mode)
    return store


def held(store: Path) -> set[str]:
    """Return every file of a store but its locks, leases and reserve."""
    files = (path.relative_to(store).as_posix() for path in store.rglob("*") if path.is_file())
    return {name for name in files if "/" in name and not name.startswith("leases/")}


def in_days(user: User, days: float) -> None:
    user.does("clock", [time.time(), days * DAY_S])


def as_a_user(act: Callable[[], object]) -> str:
    """Run `act` in a child without root's rights; return the error that it ends with."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        if IS_ROOT:
            os.setgid(GROUP + 2)
            os.setuid(GROUP + 2)
        try:
            act()
            said = "nothing"
        except Exception as error:  # noqa: BLE001 (whatever it is, the parent compares its words)
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as lines:
        said = lines.read()
    os.waitpid(child, 0)
    return said


def test_fault_25_a_folder_that_cannot_be_read_stops_a_collection(open_place: Path, users: tuple[User, User]) -> None:
    store, (theirs, mine) = shared(open_place / "store"), users
    for model, seed in (("theirs", 1), ("mine", 2)):
        assert "digest" in theirs.does("publish", store, model, "gguf-q8_0", seed)
    before = held(store)
    (store / "models" / "theirs").chmod(0o700 if IS_ROOT else 0)
    in_days(mine, 3)
    code, said = mine.types("gc", "--store", store)
    assert (code, said.count("\n")) == (1, 1), said
    assert said.startswith(f"error: {store}/models/theirs: Permission denied; users share a store by "), said
    assert f"chgrp -R GROUP {store}; chmod -R g+rX {store}; find {store} -type d -exec chmod g+ws {{}} +" in said
    assert mine.types("list", "--store", store)[0] == 1
    (store / "models" / "theirs").chmod(0o2770)
    assert held(store) == before
    in_days(mine, 3)
    assert mine.types("gc", "--store", store)[0] == 0
    assert held(store) == before
    in_days(mine, 0)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store in which a version is published; three days have passed since."""
    store = open_store(tmp_path / "store")
    publish(store, tmp_path / "made")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3 * DAY_S)
    return tmp_path / "store"


def gc(store: object) -> tuple[int, str]:
    """Return the error that `gc` ends with, its exit code first."""
    done = CliRunner().invoke(app, ["gc", "--store", str(store), *NOTHING_KEPT])
    error = done.exception
    return (error.exit_code, str(error)) if isinstance(error, QuantmillError) else (done.exit_code, done.output)


@pytest.mark.parametrize("moved", ["models", "models/m", "models/m/gguf-q8_0", "blobs/sha256", "manifests", "stages"])
def test_fault_25_what_was_moved_and_linked_back_stops_a_collection(
    published: Path, tmp_path: Path, moved: str
) -> None:
    before = held(published)
    (published / moved).parent.mkdir(exist_ok=True)
    (published / moved).exists() or (published / moved).mkdir()
    (published / moved).rename(tmp_path / "elsewhere")
    (published / moved).symlink_to(tmp_path / "elsewhere")
    code, said = gc(published)
    assert (code, said.partition(":")[0]) == (4, str(published / moved)), said
    assert "not a plain file or folder but a link" in said
    if moved.startswith("models"):
        with pytest.raises(VerificationError, match=f"{moved}: not a plain file or folder but a link"):
            open_store(published).models()
    (published / moved).unlink()
    (tmp_path / "elsewhere").rename(published / moved)
    assert held(published) == before


def test_the_store_s_own_folder_may_be_a_link_but_not_into_nothing(published: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(published)
    before = held(published)
    assert gc(tmp_path / "link")[0] == 0
    assert held(published) == before
    (tmp_path / "gone").symlink_to(tmp_path / "unmounted")
    assert gc(tmp_path / "gone") == (1, f"{tmp_path / 'gone'}: a link that leads nowhere")


@pytest.fixture
def between(s3: str, s3_session: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy(s3_session.endpoint) as lent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", lent.endpoint)
        yield lent


PAGE = b"<!DOCTYPE html><html><body>Please sign in.<br></body></html>"
WELL_FORMED = b"<html><body><p>Please sign in.</p></body></html>"
NO_COUNT = (
    b'<?xml version="1.0"?><ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated></ListBucketResult>'
)
CUT = b"<ListBucketResult><Name>bucket</Name><KeyCount>0</KeyCount><IsTruncated>true</IsTruncated></ListBucketResult>"


@pytest.mark.parametrize(
    "body", [b"", PAGE, WELL_FORMED, NO_COUNT, CUT], ids=["empty", "html", "xhtml", "no-count", "cut"]
)
def test_fault_25_a_proxy_that_answers_200_to_a_listing_stops_a_collection(
    s3: str, between: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    store = open_store(s3)
    made = publish(store, tmp_path / "made")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3 * DAY_S)
    between.faults = [Fault(b"%2Fmodels%2F", "200", body=body, count=99)]
    code, said = gc(s3)
    assert code == 1, said
    words = "the answer is no listing of a bucket; look at AWS_ENDPOINT_URL and at the proxies on the way"
    assert said == f"{s3}/models/: {words if body != PAGE else 'the store answered 500; the same command goes on'}"
    assert not [line for line in between.requests if line.startswith("DELETE") and "/leases/" not in line]
    with pytest.raises(StoreError, match="/models/: the "):
        store.models()
    between.faults = []
    store.fetch(made.files, tmp_path / "out")


def test_every_page_of_a_listing_is_asked_for(s3: str, s3_session: S3Server) -> None:
    client, prefix = s3_session.client(), s3.removeprefix("s3://bucket/") + "/"
    for name in ("a", "b", "c/d"):
        client.put_object(Bucket="bucket", Key=prefix + name, Body=b"1")
    every = [entry["Key"] for page in pages(client, "bucket", prefix, MaxKeys=1) for entry in page.get("Contents", ())]
    assert every == [prefix + name for name in ("a", "b", "c/d")]
    right_below = list(pages(client, "bucket", prefix, Delimiter="/"))
    assert [entry["Prefix"] for page in right_below for entry in page.get("CommonPrefixes", ())] == [f"{prefix}c/"]


def test_fault_25_a_record_that_is_listed_and_not_found_stops_a_collection(
    s3: str, between: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that says 404 for what it does not pass on: the record is there, what it names is needed."""
    store = open_store(s3)
    made = publish(store, tmp_path / "made")
    channels.promote(store, "m", "stable", {"gguf-q8_0": made.digest}, "a test")
    between.faults = [
        Fault(b"GET /bucket/" + s3.removeprefix("s3://bucket/").encode() + b"/models/m/channels/", "404", count=99)
    ]
    with pytest.raises(StoreError, match=r"channels/stable\.json: is listed, but cannot be read"):
        collect(store, Rules(grace_s=0, retention_s=0, newest=0))
    between.faults = []
    store.fetch(made.files, tmp_path / "out")


def test_no_listing_of_a_folder_passes_over_what_it_cannot_read(open_place: Path) -> None:
    """No listing skips an unreadable folder, as `Path.rglob` does.

    A version with an extra file would pass the check, and a version with a missing file would be stored.
    """
    folder = open_place / "folder"
    (folder / "closed").mkdir(parents=True)
    (folder / "closed" / "more.txt").write_text("1")
    (folder / "closed").chmod(0 if not IS_ROOT else 0o700)
    listings: list[Callable[[Path], object]] = [contents.check_folder, tree.walk, tree.stamps, snapshots._entries]
    listings += [open_store(open_place / "store").add_folder]
    for listing in listings:
        assert "closed" in (said := as_a_user(lambda listing=listing: listing(folder))), (listing, said)  # type: ignore[misc]
    (folder / "closed").chmod(0o755)
    for source in ("quantmill", "tasks", "flows"):
        for path in (ROOT / source).rglob("*.py"):
            text = path.read_text()
            assert not any(word in text for word in (".rglob(", "os.walk(", 'glob("**')), (
                f"{path}: see quantmill/files/walk.py"
            )
            assert "list_objects_v2" not in text or path.name == "listing.py", f"{path}: see quantmill/s3/listing.py"


@needs_root
def test_a_store_that_is_not_shared_says_what_to_set(open_place: Path, users: tuple[User, User]) -> None:
    store, (first, second) = open_place / "store", users
    open_place.chmod(0o777)
    assert "digest" in first.does("publish", store, "m", "gguf-q8_0", 1)
    assert store.stat().st_mode & 0o777 == 0o700
    for code, said in (second.types("list", "--store", store), second.types("gc", "--store", store)):
        assert code == 1
        assert (
            f"Permission denied; users share a store by the mode and group of its folder, which its owner sets: chgrp -R GROUP {store}; "
            in said
        )
    refused = second.does("publish", store, "m", "gguf-q8_0", 2)
    assert refused["error"] == "StoreError"
    assert "chgrp -R GROUP" in refused["said"]
    setting = refused["said"].partition("which its owner sets: ")[2].replace("GROUP", str(GROUP), 1)
    subprocess.run(["sh", "-c", setting], check=True)
    assert "digest" in second.does("publish", store, "m", "gguf-q8_0", 2), "the line says what helps"
    assert second.types("gc", "--store", store)[0] == 0


@needs_root
@pytest.mark.parametrize("mode", [0o2770, 0o770, 0o2775, 0o777])
def test_what_is_written_takes_the_mode_and_group_of_the_store(
    open_place: Path, users: tuple[User, User], mode: int
) -> None:
    store = shared(open_place / "store", mode)
    made = [user.does("publish", store, "m", "gguf-q8_0", number)["digest"] for number, user in enumerate(users)]
    for user, digest in zip(users, reversed(made), strict=True):
        promoted = user.types(
            "promote", "m", f"gguf-q8_0@{digest}", "--channel", "c", "--reason", "r", "--store", store
        )
        assert promoted[0] == 0, promoted
    for path in store.rglob("*"):
        state = path.stat()
        if path.is_dir():
            assert (state.st_mode & 0o7777, state.st_gid) == (mode, GROUP), path
        elif "blobs" not in path.parts:
            assert (state.st_mode & 0o777, state.st_gid) == (mode & 0o666, GROUP), path


def test_a_group_that_is_not_the_user_s_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if IS_ROOT:
        tmp_path.chmod(0o755)
        place = Path(tempfile.mkdtemp(dir="/tmp"))
        os.chown(place, GROUP + 2, 0)
        place.chmod(0o770)
        said = as_a_user(lambda: open_store(place).objects.create("models/a", b"1"))
        assert said.startswith(f"StoreError: {place}: its group (0) is none of this user's"), said
        assert f"chmod g+s {place}" in said
        assert not held(place)
    else:
        pytest.skip("only root can give a folder to a group that is not its own")


def test_fault_26_two_users_share_a_store_for_a_month(open_place: Path) -> None:
    """Play `tests/shared_month.py`; without root both users are one, without a mount no disk fills.

    The test warns of both.
    """
    command = [sys.executable, "-m", "tests.shared_month", str(open_place)]
    can_mount = subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
    done = subprocess.run(
        ["unshare", "-m", *command] if can_mount else command, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    month = json.loads(done.stdout)
    assert month["lost"] == []
    assert month["published"] > 30
    assert month["kept"] < month["published"], "what nothing names goes once it is old"
    assert month["removed"] > 20
    assert month["pulled"] > 10
    assert month["stopped"] == {"link": 2, "closed": 2}
    if not IS_ROOT:
        warnings.warn("NOT TESTED AS IT SHOULD BE: without root both users of the shared store are one", stacklevel=1)
    if can_mount:
        assert month["stopped_full"] == 4
        assert month["collected_full"] == 2
    else:
        warnings.warn("NOT TESTED AS IT SHOULD BE: no right to mount, so no disk was full in this month", stacklevel=1)


def test_a_folder_that_another_made_first_is_not_replaced(tmp_path: Path) -> None:
    """A plain rename replaced another thread's new, empty folder, and that thread's next write failed."""
    place = tmp_path / "blobs"
    place.mkdir()
    before = place.stat().st_ino
    Sharing(tmp_path)._make(place)
    assert place.stat().st_ino == before
    assert list(tmp_path.iterdir()) == [place]
