"""The contract that Quantmill's factory and the consumers of its artifacts share. It imports no engine."""

__version__ = "0.1.0"
