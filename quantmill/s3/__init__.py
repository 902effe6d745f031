"""S3: addresses, a client, one-line errors, checked listings."""

__all__ = ["address", "client", "listing"]
