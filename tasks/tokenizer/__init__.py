"""Compares tokenizers and chat templates of a model's folder and GGUF file, and repairs them."""

__all__ = ["chat", "check", "from_sentencepiece", "of_gguf", "probe", "same_text", "sentencepiece_model"]
