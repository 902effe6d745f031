"""What a model's files say: architecture, weights, configs, licences; which files make a model."""

__all__ = ["architecture", "config_forms", "experts", "files", "gguf", "licences", "stored_types", "tensors"]
