"""nin-edge: a Network-in-Network classifier from PyTorch training to one ONNX file on a device."""

__version__ = "0.1.0"
