"""A model file: its metadata, and the checks before ONNX Runtime sees it."""
