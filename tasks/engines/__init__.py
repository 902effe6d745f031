"""Inside a job: code for an engine that several methods and runtimes share."""

__all__ = ["gptqmodel", "placement"]
