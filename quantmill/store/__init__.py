"""Stores: where bytes and records live. `objects` says what a place must do, `store` and `channels` build on it."""
