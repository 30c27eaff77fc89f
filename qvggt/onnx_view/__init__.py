"""The one reader of an ONNX file. Needs no torch."""
