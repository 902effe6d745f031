"""Stores: where bytes and records are kept. `objects` says what a place must do, `store` and `channels` build on it."""

__all__ = ["channels", "collect", "named", "objects", "places", "side_records", "store", "stored"]
