"""Reads a model's files: architecture, weights, configs, licences; says which files make a model."""

__all__ = ["architecture", "config_forms", "experts", "files", "gguf", "licences", "stored_types", "tensors"]
