"""Fixtures of several rooms."""

from tests.bucket import bucket

__all__ = ["bucket"]
