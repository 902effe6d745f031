"""One module a method: `quantize(source, spec, calibration, out, device, progress)` fills an empty folder."""
