"""Makes the report of a run: Markdown, an HTML page and a plot."""

from tasks.report.markdown import plain, row
from tasks.report.report import document, pages, table, write, write_summary

__all__ = ["document", "pages", "plain", "row", "table", "write", "write_summary"]
