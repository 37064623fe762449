"""Labelled images as arrays: which files DATA means, how they are split, decoded and cached."""

from nin_edge.data.datasets import Dataset, DatasetError, Progress, check_labels, dataset_name
from nin_edge.data.location import FOLDER, OFFICIAL, Location, locate, open_dataset

__all__ = [
    "FOLDER",
    "OFFICIAL",
    "Dataset",
    "DatasetError",
    "Location",
    "Progress",
    "check_labels",
    "dataset_name",
    "locate",
    "open_dataset",
]
