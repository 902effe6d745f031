"""The built-in text: the manual that Python ships."""


def builtin_text() -> str:
    """Return all topics of Python's manual as one text."""
    from pydoc_data import topics

    return "\n\n".join(topics.topics[name] for name in sorted(topics.topics))
