"""A run as Markdown, as a page and as a plot."""

from tasks.report.markdown import plain, row
from tasks.report.report import document, pages, table, write, write_summary

__all__ = ["document", "pages", "plain", "row", "table", "write", "write_summary"]
