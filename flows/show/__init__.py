"""Shows a run to people: progress and results on the screen, pages in Prefect."""

__all__ = ["pages", "progress", "screen"]
