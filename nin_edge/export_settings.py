"""The settings of `nin_edge.export`; the export stage itself imports torch's exporter."""

from __future__ import annotations

from typing import TypedDict


class ExportSettings(TypedDict, total=False):
    """Settings of an export: the fields of `nin_edge_export.ExportOptions`."""

    precisions: tuple[str, ...]
    """`fp32`, `fp16`, `int8`; all of them if not given."""
    embedded: str
    """Preprocessing in the graph: `full` (the default), `normalize` or `none`."""
    opset: int
    """Version of the ONNX operators, 18 (the default) to 22; from 13 if not `full`."""
    batch: int
    """Number of images per run; any if not given."""
    method: str
    """How int8's ranges are found: `minmax` (the default), `percentile` or `entropy`."""
    calibration_images: int
    """Largest number of images that int8's ranges are measured on."""
    max_drop: float
    """Largest loss of int8's accuracy on the hold-out, in percentage points."""
