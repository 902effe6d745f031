"""What people see of a run: progress and the end on the screen, pages in Prefect."""

__all__ = ["pages", "progress", "screen"]
