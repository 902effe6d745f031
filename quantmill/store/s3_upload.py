"""Multipart uploads: one read of the file, parallel parts with sha256 each, a conditional completion.

A killed upload leaves its parts in the bucket. The next upload of the same file resumes it: a part that the bucket holds with
the right length and MD5 is not sent again.
"""

import base64
import hashlib
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from quantmill.errors import StoreError, VerificationError
from quantmill.s3.client import code_of, status_of
from quantmill.store.objects import OnBytes
from quantmill.store.s3_parts import Parts, part_bytes

SINGLE_BYTES = 64 << 20
_TRIES = 3

Part = dict[str, Any]


class Upload:
    """The upload of one file to one key."""

    def __init__(self, client: Any, at: dict[str, str], parts: Parts, condition: dict[str, str]) -> None:
        """Send to bucket and key in `at`; `condition` holds the conditional headers of the completion."""
        self._client, self._at, self._parts, self._condition = client, at, parts, condition

    def send(self, path: Path, sha256: str, on_bytes: OnBytes) -> None:
        """Send the file and return when the object exists, also if another writer completed it.

        Raises:
            StoreError: other writers kept completing or aborting the upload.
            VerificationError: the file does not match `sha256`.
        """
        from botocore.exceptions import ClientError

        size = path.stat().st_size
        for _ in range(_TRIES):
            upload = (
                self._unfinished()
                or self._client.create_multipart_upload(**self._at, ChecksumAlgorithm="SHA256")["UploadId"]
            )
            try:
                sent = self._send_parts(upload, path, sha256, on_bytes)
                self._client.complete_multipart_upload(
                    **self._at, UploadId=upload, MultipartUpload={"Parts": sent}, **self._condition
                )
                return
            except VerificationError:
                abort(self._client, self._at | {"UploadId": upload})
                raise
            except ClientError as error:
                if code_of(error) != "NoSuchUpload" and status_of(error) not in (409, 412):
                    raise
                if status_of(error) != 404:
                    abort(self._client, self._at | {"UploadId": upload})  # it will never be completed
            if self._size() == size:
                return  # another writer was first, or the answer to this writer got lost
        raise StoreError(f"{path}: other writers kept completing or aborting the upload")

    def _send_parts(self, upload: str, path: Path, sha256: str, on_bytes: OnBytes) -> list[Part]:
        """Read and hash the file once, send the missing parts and return the list of all parts."""
        size, there, whole = (
            path.stat().st_size,
            parts_of(self._client, self._at | {"UploadId": upload}),
            hashlib.sha256(),
        )
        futures: list[Future[Part]] = []
        try:
            with path.open("rb", buffering=0) as file:
                while True:
                    self._parts.take(length := part_bytes(size))
                    data = bytearray(length)  # boto3 would copy a `bytes` object
                    del data[file.readinto(data) or 0 :]
                    if not data or any(future.done() and future.exception() for future in futures):
                        self._parts.give_back(length)
                        break
                    job = self._parts.pool.submit(self._send_part, upload, len(futures) + 1, data, there, on_bytes)
                    job.add_done_callback(partial(self._parts.give_back, length))
                    futures.append(job)
                    whole.update(data)
                    del data
            sent = [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
        if whole.hexdigest() != sha256:
            raise VerificationError(f"{path}: its bytes are not those of {sha256}; it changed while it was read")
        return sent

    def _send_part(self, upload: str, number: int, data: bytearray, there: dict[int, Part], on_bytes: OnBytes) -> Part:
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        tag = self._tag_of_same(there.get(number), data)
        if tag is None:
            answer = self._client.upload_part(
                **self._at, UploadId=upload, PartNumber=number, Body=data, ChecksumSHA256=checksum
            )
            tag = answer["ETag"]
        on_bytes(len(data))
        return {"PartNumber": number, "ETag": tag, "ChecksumSHA256": checksum}

    @staticmethod
    def _tag_of_same(part: Part | None, data: bytearray) -> str | None:
        if part is None or part["Size"] != len(data):
            return None
        tag = str(part["ETag"])
        return tag if tag.strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest() else None

    def _unfinished(self) -> str | None:
        """Return the id of the newest unfinished upload to this key, or None."""
        found = [
            (upload["Initiated"], str(upload["UploadId"]))
            for upload in unfinished(self._client, self._at["Bucket"], self._at["Key"])
            if upload["Key"] == self._at["Key"]
        ]
        return max(found)[1] if found else None

    def _size(self) -> int | None:
        from botocore.exceptions import ClientError

        try:
            return int(self._client.head_object(**self._at)["ContentLength"])
        except ClientError as error:
            if status_of(error) != 404:
                raise
            return None


def unfinished(client: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """Yield the unfinished multipart uploads under a prefix."""
    for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
        yield from page.get("Uploads", [])


def parts_of(client: Any, at: dict[str, str]) -> dict[int, Part]:
    """Return the parts of an upload by number; empty if the upload is gone."""
    from botocore.exceptions import ClientError

    try:
        pages = list(client.get_paginator("list_parts").paginate(**at))
    except ClientError as error:
        if status_of(error) != 404:
            raise
        return {}
    return {int(part["PartNumber"]): part for page in pages for part in page.get("Parts", [])}


def abort(client: Any, at: dict[str, str]) -> None:
    """Abort an upload; a missing upload is no error."""
    from botocore.exceptions import ClientError

    with suppress(ClientError):
        client.abort_multipart_upload(**at)
