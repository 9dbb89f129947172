"""A forecast from an ONNX file without PyTorch."""
