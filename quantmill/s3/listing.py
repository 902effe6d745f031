"""Lists a bucket and rejects an answer that is no listing, such as a proxy's page with status 200."""

from collections.abc import Iterator
from typing import Any

from quantmill.errors import StoreError


def pages(client: Any, bucket: str, prefix: str, **more: Any) -> Iterator[dict[str, Any]]:
    """Yield the pages of a bucket's listing under a prefix; `more` holds arguments of `list_objects_v2`.

    A page has up to a thousand objects. Every answer must name the bucket and state the number of its entries, so a foreign
    answer is not taken for an empty listing.

    Raises:
        StoreError: an answer is no listing, is cut short, or holds names outside the prefix.
    """
    from botocore.parsers import ResponseParserError

    try:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **more):
            held = [*page.get("Contents", ()), *page.get("CommonPrefixes", ())]
            names = [str(entry.get("Key", entry.get("Prefix", ""))) for entry in held]
            ends = page.get("IsTruncated") is False or bool(page.get("NextContinuationToken"))
            whole = page.get("Name") and page.get("KeyCount") == len(held) and ends
            if not whole or not all(name.startswith(prefix) for name in names):
                raise _no_listing(bucket, prefix)
            yield page
    except ResponseParserError as error:
        raise _no_listing(bucket, prefix) from error


def _no_listing(bucket: str, prefix: str) -> StoreError:
    return StoreError(
        f"s3://{bucket}/{prefix}: the answer is no listing of a bucket; look at AWS_ENDPOINT_URL and at the proxies on the way"
    )
