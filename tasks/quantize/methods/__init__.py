"""One module for each method, with the same name as the module of the method's facts.

`quantize(work)` fills an empty folder; `obstacle(model, folder)` says why the method cannot quantize a model.
"""
