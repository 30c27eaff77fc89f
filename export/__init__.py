"""Checkpoint -> ONNX Q/DQ, lint, parity."""
