"""Labelled images as arrays: which files DATA means, how they are split, decoded and cached."""

from nin_edge.data.cache import Progress
from nin_edge.data.dataset import SPLITS, Dataset, check_labels, open_dataset
from nin_edge.data.errors import DatasetError
from nin_edge.data.location import FOLDER, Location, dataset_name, locate
from nin_edge.data.official import OFFICIAL

__all__ = [
    "FOLDER",
    "OFFICIAL",
    "SPLITS",
    "Dataset",
    "DatasetError",
    "Location",
    "Progress",
    "check_labels",
    "dataset_name",
    "locate",
    "open_dataset",
]
