"""The contract that Quantmill's factory shares with the consumers of its artifacts; imports no engine."""

__version__ = "0.1.0"
