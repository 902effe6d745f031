"""Stores of bytes and records: `objects` is a backend's protocol, `store` and `channels` build on it."""

__all__ = ["channels", "collect", "named", "objects", "places", "side_records", "store", "stored"]
