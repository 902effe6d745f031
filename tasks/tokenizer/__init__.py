"""Tokenizers and chat templates: whether two make the same ids of the same text, and what repairs them."""

__all__ = ["chat", "check", "of_gguf", "probe", "same_text", "sentencepiece_model"]
