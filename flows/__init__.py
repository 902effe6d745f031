"""The orchestration: what runs when, and where. Nothing here imports an engine."""
