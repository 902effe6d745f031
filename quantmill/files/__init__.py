"""Files: by digest, by what may be in them, by names that every system can hold; keys of what is made of them."""

__all__ = ["contents", "entries", "gguf_header", "keys", "paths", "safetensors_header", "walk", "yaml_file"]
