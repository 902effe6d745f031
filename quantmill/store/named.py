"""Finds the version that a user names as `VARIANT` or `VARIANT@DIGEST`; first digits are enough."""

import re

from quantmill.errors import NotFound, RequestError
from quantmill.store.store import Store

_DIGITS = re.compile("[0-9a-f]{6,64}")


def find_version(store: Store, model: str, text: str, standing: bool = True) -> tuple[str, str]:
    """Return the variant and the manifest's digest that `text` names.

    Args:
        store: the store that holds the model.
        model: the model.
        text: `VARIANT` for its newest version, or `VARIANT@DIGEST`.
        standing: whether `VARIANT` means the newest version that is not revoked.

    Raises:
        NotFound: there is no such version, or more than one.
        RequestError: the text after `@` is not a digest.
    """
    variant, at, start = text.partition("@")
    if variant not in (names := store.variants(model)):
        raise NotFound(f"{model}: no variant {variant!r}; there is {', '.join(names)}")
    digests = list(dict.fromkeys(version.manifest for version in store.versions(model, variant)))
    if not at:
        if left := [digest for digest in digests if not standing or not store.revocation(model, variant, digest)]:
            return variant, left[-1]
        last = store.revocation(model, variant, digests[-1]) if digests else None
        raise NotFound(f"{model}/{variant}: every version was revoked" + (f"; the last: {last.reason}" if last else ""))
    if not _DIGITS.fullmatch(start):
        raise RequestError(f"{text!r}: after @ comes the digest of a manifest, or its first 6 digits or more")
    found = [digest for digest in digests if digest.startswith(start)]
    if len(found) != 1:
        known = ", ".join(digest[:12] for digest in found or digests)
        raise NotFound(f"{model}/{variant}: {len(found)} versions begin with {start}; known are {known}")
    return variant, found[0]
