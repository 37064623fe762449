"""The export stage of nin-edge: a checkpoint in, self-describing ONNX files out (docs/artifact.md).

>>> from nin_edge.checkpoint import Checkpoint
>>> checkpoint = Checkpoint.load(Path("runs/photos/best.safetensors"))
>>> for model in export_models(checkpoint):
...     Path(f"photos.{model.info.precision}.onnx").write_bytes(model.data)
"""

from nin_edge_export.export import ExportedModel, ExportOptions, export_models
from nin_edge_export.int8.budget import Int8Plan
from nin_edge_export.int8.quantize import DEFAULT_METHOD
from nin_edge_export.write import Exported, export_name, write_export
from nin_edge_runtime.model_file.read import PRECISIONS

__all__ = [
    "DEFAULT_METHOD",
    "PRECISIONS",
    "ExportOptions",
    "Exported",
    "ExportedModel",
    "Int8Plan",
    "export_models",
    "export_name",
    "write_export",
]
