"""The grammar of `s3://bucket/prefix`, the same for models, stores and exports.

It accepts what servers accept: also bucket names under older rules (capitals, `_`), and every valid prefix of a key. Slashes
around a prefix are ignored. Stricter rules are in the callers: a store writes its prefix in Unicode's form NFC, and an export
requires a prefix, because it replaces everything below it.
"""

import re
from typing import NamedTuple

PREFIX = "s3://"
RULE = (
    "s3://bucket/prefix; a bucket's name has 3 to 255 letters, digits, dots, hyphens and underscores,"
    " a prefix has no part . or .. and no control characters"
)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")


class Address(NamedTuple):
    """A bucket and a prefix in it."""

    bucket: str
    prefix: str
    """The prefix without slashes around it; empty: the whole bucket."""


def parse(place: str) -> Address | None:
    """Return the bucket and the prefix in the text after `s3://`; None: the text breaks the rule."""
    bucket, _, rest = place.partition("/")
    prefix = rest.strip("/")
    plain = prefix.isprintable() and not {".", ".."} & set(prefix.split("/"))
    return Address(bucket, prefix) if plain and _BUCKET.fullmatch(bucket) else None


def read(uri: str) -> Address:
    """Return the bucket and the prefix of an address.

    Raises:
        ValueError: the address breaks the rule.
    """
    found = parse(uri.removeprefix(PREFIX)) if uri.startswith(PREFIX) else None
    if found is None:
        raise ValueError(f"must be {RULE}")
    return found
