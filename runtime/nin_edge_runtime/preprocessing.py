"""RGB pixels -> the network's input."""

from nin_edge_runtime.image import Preprocessing, center_crop_box

__all__ = ["Preprocessing", "center_crop_box"]
