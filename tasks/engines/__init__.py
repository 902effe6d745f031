"""What several methods and runtimes share of an engine; inside a job."""

__all__ = ["gptqmodel", "placement"]
