"""Files: entries with digests, allowed contents, portable names, headers, and keys of results."""

__all__ = ["contents", "entries", "gguf_header", "keys", "paths", "safetensors_header", "walk", "yaml_file"]
