"""One module a library that loads artifacts: folder -> logits, generated ids, speed. Chosen by the method's row."""
