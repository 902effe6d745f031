"""Export to a folder and to a hub: exactly the version's files and its manifest, checked.

A revoked version is refused.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantmill.client import client
from quantmill.errors import NotFound, RequestError, StoreError, VerificationError
from quantmill.records.manifest import MANIFEST_PATH, Manifest, Revocation
from quantmill.store.layout import blob_key
from quantmill.store.places import open_store
from quantmill.store.store import Store
from tasks.publish.export import export
from tests import samples
from tests.hub_server import HubServer
from tests.s3_server import S3Server

WEIGHTS = bytes(range(256)) * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def publish(store: Store, folder: Path, card: str = "---\nlicense: mit\n---\n", made_at: float = 1.0) -> Manifest:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text(card)
    manifest = samples.manifest(store.add_folder(folder))
    store.commit(manifest, samples.version(manifest, made_at))
    return manifest


def files_in(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_holds_the_files_and_the_manifest(store: Store, tmp_path: Path) -> None:
    made = publish(store, tmp_path / "made")
    place = export(store, "m", "v", str(tmp_path / "there" / "model"))
    held = files_in(Path(place))
    assert Manifest.model_validate_json(held.pop(MANIFEST_PATH)).digest == made.digest
    assert held == files_in(tmp_path / "made")
    assert client.verify(Path(place)) == made
    assert (Path(place) / "model.safetensors").stat().st_nlink == 1, "a copy: what is written there harms no store"
    with pytest.raises(RequestError, match="exists; name a folder to make"):
        export(store, "m", "v", place)
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["model"]


def test_what_was_revoked_is_refused(store: Store, tmp_path: Path) -> None:
    first, second = publish(store, tmp_path / "a"), publish(store, tmp_path / "b", "another card", 2.0)
    store.revoke("m", "v", Revocation(manifest=second.digest, reason="wrong tokenizer", made_at=3.0))
    place = export(store, "m", "v", str(tmp_path / "newest-that-stands"))
    assert Manifest.model_validate_json((Path(place) / MANIFEST_PATH).read_bytes()).digest == first.digest
    with pytest.raises(NotFound, match="was revoked: wrong tokenizer"):
        export(store, "m", f"v@{second.digest[:12]}", str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_bytes_that_changed_are_not_sent(store: Store, tmp_path: Path) -> None:
    made = publish(store, tmp_path / "made")
    (weights,) = [file for file in made.files if file.path == "model.safetensors"]
    blob = Path(store.uri) / blob_key(weights.sha256)
    blob.unlink()
    blob.write_bytes(b"\1" + WEIGHTS[1:])
    with pytest.raises(VerificationError, match=r"model\.safetensors"):
        export(store, "m", "v", str(tmp_path / "there"))
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("target", ["ftp://there/x", "hf://name", "hf://org/../name", "s3://bucket", "s3:///x"])
def test_a_target_is_written_like_one(store: Store, tmp_path: Path, target: str) -> None:
    publish(store, tmp_path / "made")
    with pytest.raises(RequestError, match=r"hf://org/name|s3://bucket/prefix"):
        export(store, "m", "v", target)


def test_a_prefix_of_a_bucket(store: Store, tmp_path: Path, s3: str, s3_session: S3Server) -> None:
    """Plain objects by name; a later export replaces an earlier one, and nobody else's files are touched."""
    made, target, client = publish(store, tmp_path / "made"), f"{s3}/exported", s3_session.client()
    bucket, _, prefix = target.removeprefix("s3://").partition("/")

    def there() -> dict[str, bytes]:
        found = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/").get("Contents", [])
        read = {item["Key"]: client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in found}
        return {name.removeprefix(f"{prefix}/"): data for name, data in read.items()}

    client.put_object(Bucket=bucket, Key=f"{prefix}-beside", Body=b"theirs")
    assert export(store, "m", "v", target) == f"{target}/"
    held = there()
    assert Manifest.model_validate_json(held.pop(MANIFEST_PATH)).digest == made.digest
    assert held == files_in(tmp_path / "made")
    publish(store, tmp_path / "next", "another card", 2.0)
    export(store, "m", "v", target)
    assert there()["README.md"] == b"another card"
    client.put_object(Bucket=bucket, Key=f"{prefix}-theirs/model.safetensors", Body=b"theirs")
    with pytest.raises(RequestError, match=r"holds model\.safetensors, and no earlier export"):
        export(store, "m", "v", f"{target}-theirs")
    with pytest.raises(StoreError, match="NoSuchBucket"):
        export(store, "m", "v", "s3://no-such-bucket/prefix")


def run(home: Path, hub: HubServer, *arguments: str, token: str = "writer") -> "subprocess.CompletedProcess[str]":
    """Run the command line with the hub's real client, without the newer storage (Xet).

    The stand-in for the hub has no such storage.
    """
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
    environment |= {"QUANTMILL_HOME": str(home), "HF_HOME": str(home / "hf"), "QUANTMILL_DEBUG": ""}
    command = [sys.executable, "-m", "quantmill.cli", "export", "m", "v", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_a_repository_of_a_hub(store: Store, tmp_path: Path) -> None:
    made = publish(store, tmp_path / "made")
    with HubServer() as hub:
        refused = run(tmp_path, hub, "hf://org/name", token="canary-4711")
        assert refused.returncode == 2
        assert "HF_TOKEN must be a token that may write there" in refused.stderr
        assert "canary" not in refused.stderr + refused.stdout
        done = run(tmp_path, hub, "hf://org/name", "--private")
        assert done.returncode == 0, done.stderr
        commit = hub.repos["org/name"].refs["main"]
        assert done.stdout.strip() == f"{hub.url}/org/name/commit/{commit}"
        assert hub.private == {"org/name"}
        held = dict(hub.repos["org/name"].commits[commit])
        assert Manifest.model_validate_json(held.pop(MANIFEST_PATH)).digest == made.digest
        assert held.pop(".gitattributes")
        assert held == files_in(tmp_path / "made")
        publish(store, tmp_path / "next", "another card", 2.0)
        assert run(tmp_path, hub, "hf://org/name").returncode == 0
        now = hub.repos["org/name"].commits[hub.repos["org/name"].refs["main"]]
        assert now["README.md"] == b"another card"
        hub.commit("org/others", {"model.safetensors": b"theirs"})
        foreign = run(tmp_path, hub, "hf://org/others")
        assert foreign.returncode == 2
        assert "and no earlier export" in foreign.stderr
        assert hub.repos["org/others"].commits[hub.repos["org/others"].refs["main"]] == {"model.safetensors": b"theirs"}
