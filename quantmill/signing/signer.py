"""The process that holds the signing key: `python -I signer.py sign|public KEY`.

It knows two orders and one payload type. It imports nothing of Quantmill, so that no other code can read the key. `sign` turns
the in-toto statement on standard input into a DSSE envelope on standard output; `public` prints the key's public half.
"""

import json
import resource
import sys
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

PAYLOAD_TYPE = "application/vnd.in-toto+json"
Private = Ed25519PrivateKey | EllipticCurvePrivateKey


def load(path: Path) -> Private:
    """Return the private key in a PEM file.

    Raises:
        ValueError: the file holds no supported private key; the message reveals nothing of its content.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    curve = key.curve if isinstance(key, EllipticCurvePrivateKey) else None
    if isinstance(key, Ed25519PrivateKey) or (
        isinstance(key, EllipticCurvePrivateKey) and isinstance(curve, SECP256R1)
    ):
        return key
    raise ValueError("not an Ed25519 or P-256 private key in PEM without a password")


def sign(key: Private, statement: bytes) -> bytes:
    """Return a DSSE envelope of the statement with one signature, as canonical JSON."""
    if "_type" not in json.loads(statement):
        raise ValueError("only in-toto statements are signed")
    envelope = Envelope(statement, PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(key))
    return json.dumps(envelope.to_dict(), sort_keys=True, separators=(",", ":")).encode()


def public(key: Private) -> bytes:
    """Return the public half in PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def main() -> int:
    """Run the command line's order and return the exit status; errors are one line on standard error."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash would write the key to the disk
    try:
        order, path = sys.argv[1:]
        key = load(Path(path))
        answer = {"sign": lambda: sign(key, sys.stdin.buffer.read()), "public": lambda: public(key)}[order]()
    except OSError as error:
        sys.stderr.write(f"cannot be read ({error.strerror})")
        return 1
    except ValueError as error:
        sys.stderr.write(str(error))
        return 1
    sys.stdout.buffer.write(answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
