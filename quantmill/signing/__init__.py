"""Signatures: published versions are signed, pulled versions are checked against a keyring."""

from quantmill.signing.key_pairs import create
from quantmill.signing.signing import Keyring, claimed_key, own_keyring, sign, verify

__all__ = ["Keyring", "claimed_key", "create", "own_keyring", "sign", "verify"]
