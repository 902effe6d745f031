"""Stores of bytes and records: `objects` is the protocol of a backend, `store` and `channels` build on it."""

__all__ = ["channels", "collect", "named", "objects", "places", "side_records", "store", "stored"]
