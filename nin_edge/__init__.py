"""nin-edge: train a Network-in-Network classifier in PyTorch and take it to a device as one ONNX file."""

__version__ = "0.1.0"
