"""S3: a client, its errors in words, listings that hide nothing."""

__all__ = ["client", "listing"]
