"""Objects in a bucket, written with sha256 checksums; conditional writes decide races.

`create` sends `If-None-Match: *`, `swap` sends `If-Match`. Status 412 means that another writer was first, or that an earlier
try of this writer succeeded and its answer was lost: a comparison of the bytes decides. Status 409 means to try again.
"""

import base64
import hashlib
import random
import time
import unicodedata
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from quantmill.errors import BlobMissing, StoreError, VerificationError
from quantmill.files.entries import FileEntry
from quantmill.files.paths import safe_path
from quantmill.machine import disk
from quantmill.s3.client import code_of, connect, one_line, status_of, was_retried
from quantmill.s3.listing import pages
from quantmill.store.objects import RECORD_BYTES, Held, Listed, OnBytes, ignore
from quantmill.store.s3_download import Download
from quantmill.store.s3_parts import Parts
from quantmill.store.s3_upload import SINGLE_BYTES, Upload, abort, parts_of, unfinished

_CONFLICTS = 8


class S3Objects:
    """`Objects` under a prefix of a bucket; nothing is sent before the first use. The bucket must exist."""

    def __init__(self, bucket: str, prefix: str = "", client: Any = None, single_bytes: int = SINGLE_BYTES) -> None:
        """Use a bucket and a prefix; the default client is made from the environment.

        Files longer than `single_bytes` are sent in parts.
        """
        self._bucket, self._given, self._single_bytes = bucket, client, single_bytes
        self._prefix = f"{unicodedata.normalize('NFC', prefix)}/" if prefix else ""

    @property
    def uri(self) -> str:
        """The address, s3://bucket/prefix."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def size(self, key: str) -> int | None:
        """Return the object's length, or None if there is no object."""
        head = self._head(key)
        return int(head["ContentLength"]) if head else None

    def read(self, key: str) -> Held | None:
        """Return a small object, or None; its tag is its ETag."""
        from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError

        with one_line(f"{self.uri}/{key}"):
            for last in (False, False, True):
                try:
                    answer = self._client.get_object(**self._at(key))
                    if (size := int(answer["ContentLength"])) > RECORD_BYTES:
                        raise VerificationError(f"{self.uri}/{key}: {size} bytes; a record has at most {RECORD_BYTES}")
                    return Held(answer["Body"].read(), answer["ETag"])
                except ClientError as error:
                    if code_of(error) not in ("NoSuchKey", "404"):
                        raise
                    return None
                except (HTTPClientError, IncompleteReadError):  # boto3 retries only until the body begins
                    if last:
                        raise
        raise AssertionError

    def create(self, key: str, data: bytes) -> bool:
        """Write a new object; return False if another writer's object exists. Of several writers one wins."""
        return self._write(key, data, IfNoneMatch="*")

    def replace(self, key: str, data: bytes) -> None:
        """Write an object, or replace it."""
        self._write(key, data)

    def swap(self, key: str, data: bytes, tag: str) -> bool:
        """Replace the object that was read with `tag`; return False if the object has changed or is gone."""
        return self._write(key, data, IfMatch=tag)

    def delete(self, key: str) -> None:
        """Remove an object; a missing object is no error."""
        with one_line(f"{self.uri}/{key}"):
            self._client.delete_object(**self._at(key))

    def under(self, prefix: str) -> Iterator[Listed]:
        """Yield the objects below a folder, by key; one request lists a thousand."""
        start = f"{self._prefix}{safe_path(prefix.rstrip('/'))}/"
        with one_line(f"{self.uri}/{prefix}"):
            for page in pages(self._client, self._bucket, start):
                for entry in page.get("Contents", []):
                    key = str(entry["Key"])[len(self._prefix) :]
                    if not _is_ours(key):
                        continue
                    yield Listed(key, int(entry["Size"]), entry["LastModified"].timestamp())

    def unfinished(self) -> Iterator[Listed]:
        """Yield the multipart uploads that nobody completed."""
        with one_line(self.uri):
            for upload in unfinished(self._client, self._bucket, self._prefix):
                at = {"Bucket": self._bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                size = sum(part["Size"] for part in parts_of(self._client, at).values())
                key = f"{upload['Key'][len(self._prefix) :]}#{upload['UploadId']}"
                yield Listed(key, size, upload["Initiated"].timestamp())

    def drop_unfinished(self, left: Listed) -> None:
        """Abort a multipart upload."""
        key, _, upload = left.key.rpartition("#")
        with one_line(f"{self.uri}/{key}"):
            abort(self._client, self._at(key) | {"UploadId": upload})

    def release_reserve(self) -> bool:
        """Return False: a bucket needs no reserve."""
        return False

    def keep_reserve(self) -> None:
        """Do nothing: a bucket needs no reserve."""

    def add_file(self, key: str, path: Path, sha256: str, on_bytes: OnBytes = ignore) -> None:
        """Send a file unless the object has its size already; an object of another size is replaced."""
        size, held = path.stat().st_size, self.size(key)
        if held == size:
            on_bytes(size)
            return
        condition = {} if held is not None else {"IfNoneMatch": "*"}
        with one_line(f"{self.uri}/{key}"):
            if size > self._single_bytes:
                Upload(self._client, self._at(key), self._parts, condition).send(path, sha256, on_bytes)
            else:
                self._send(key, path, sha256, condition)
                on_bytes(size)

    def intact(self, key: str, entry: FileEntry) -> bool:
        """Return whether the object has the entry's length and, if it was sent in one piece, its sha256.

        For an object sent in parts, the server checked the sha256 of each part and keeps none of the whole.
        """
        head = self._head(key)
        if head is None or head["ContentLength"] != entry.size_bytes:
            return False
        stated = str(head.get("ChecksumSHA256", ""))
        return not stated or "-" in stated or stated == _base64(entry.sha256)

    def fetch_file(
        self,
        key: str,
        entry: FileEntry,
        target: Path,
        on_bytes: OnBytes = ignore,
        copy: bool = False,  # noqa: ARG002 (a download always is a copy)
    ) -> None:
        """Download an object in parallel ranges; resumes what a killed attempt left beside `target`."""
        head = self._head(key)
        if head is None:
            raise BlobMissing(f"{entry.path}: blob {entry.sha256} is not in {self.uri}")
        if head["ContentLength"] != entry.size_bytes:
            raise VerificationError(f"{entry.path}: the bytes in {self.uri} are not those of {entry.sha256}")
        at = self._at(key) | {"IfMatch": head["ETag"]}
        with one_line(f"{self.uri}/{key}"), disk.room_at(target.parent):
            for on_moved in (on_bytes, ignore):
                if Download(self._client, at, self._parts, entry, target).run(on_moved):
                    return
        raise VerificationError(f"{entry.path}: the bytes in {self.uri} are not those of {entry.sha256}; fetched twice")

    @cached_property
    def _client(self) -> Any:
        if self._given:
            return self._given
        with one_line(self.uri):
            return connect(self._parts.threads + 8)

    @cached_property
    def _parts(self) -> Parts:
        return Parts()

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + safe_path(key)}

    def _head(self, key: str) -> dict[str, Any] | None:
        from botocore.exceptions import ClientError

        with one_line(f"{self.uri}/{key}"):
            try:
                return dict(self._client.head_object(**self._at(key), ChecksumMode="ENABLED"))
            except ClientError as error:
                if status_of(error) != 404:
                    raise
                return None

    def _send(self, key: str, path: Path, sha256: str, condition: dict[str, str]) -> None:
        """Send a file in one request; an object of equal size from another writer is accepted."""
        from botocore.exceptions import ClientError

        for attempt in range(_CONFLICTS):
            try:
                with path.open("rb") as file:
                    self._client.put_object(**self._at(key), Body=file, ChecksumSHA256=_base64(sha256), **condition)
                return
            except ClientError as error:
                if status_of(error) == 412 and self.size(key) == path.stat().st_size:
                    return
                if status_of(error) != 409:
                    raise
            _pause(attempt)
        raise StoreError(f"{self.uri}/{key}: other writers kept writing the object")

    def _write(self, key: str, data: bytes, **condition: str) -> bool:
        from botocore.exceptions import ClientError

        checksum = _base64(hashlib.sha256(data).hexdigest())
        for attempt in range(_CONFLICTS):
            with one_line(f"{self.uri}/{key}"):
                try:
                    self._client.put_object(**self._at(key), Body=data, ChecksumSHA256=checksum, **condition)
                    return True
                except ClientError as error:
                    if condition and (status_of(error) == 412 or code_of(error) == "NoSuchKey"):
                        sent_before = attempt > 0 or was_retried(error)
                        return sent_before and (held := self.read(key)) is not None and held.data == data
                    if status_of(error) != 409:
                        raise
            _pause(attempt)
        raise StoreError(f"{self.uri}/{key}: other writers kept writing the object")


def _is_ours(key: str) -> bool:
    """Return whether a key is a plain path; consoles make keys such as `models/` for a new folder."""
    try:
        return safe_path(key) == key
    except ValueError:
        return False


def _base64(sha256: str) -> str:
    return base64.b64encode(bytes.fromhex(sha256)).decode()


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0, min(2.0, 0.05 * 2**attempt)))
