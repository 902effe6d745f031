"""One module a method: `quantize(source, spec, calibration, out, device, arithmetic, progress)` fills an empty folder."""
