"""The built-in text: Python's own manual."""


def builtin_text() -> str:
    """Return the text of Python's own manual."""
    from pydoc_data import topics

    return "\n\n".join(topics.topics[name] for name in sorted(topics.topics))
