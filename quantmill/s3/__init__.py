"""S3: addresses, a client, its errors in words, listings that hide nothing."""

__all__ = ["address", "client", "listing"]
