"""Stores: where bytes and records live. `protocol` says what a store does; `folder` does it on a disk."""
