"""Encoders in ONNX files: their weights are found by what the graph computes; the graph is never run."""
