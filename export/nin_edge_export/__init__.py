"""The export stage of nin-edge: a checkpoint in, self-describing ONNX files out (docs/artifact.md).

>>> from nin_edge.checkpoint import Checkpoint
>>> checkpoint = Checkpoint.load(Path("runs/photos/best.safetensors"))
>>> Path("photos.fp32.onnx").write_bytes(export_model(checkpoint).data)
"""

from nin_edge_export.artifact import ExportedModel, export_model

__all__ = ["ExportedModel", "export_model"]
