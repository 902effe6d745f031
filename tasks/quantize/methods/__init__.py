"""One module a method, of the same name as its facts: `quantize(work)` fills an empty folder, `obstacle` refuses a model."""
