"""Prefect's server: the one of this machine, and how a server is made what the lists say."""

__all__ = ["bootstrap", "embedded", "environment", "exporter"]
