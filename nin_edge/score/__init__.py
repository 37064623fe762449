"""Predictions for millions of images: folders, Parquet and tar shards in, Parquet out."""

from nin_edge.score.output import Summary
from nin_edge.score.scoring import ENGINES, score

__all__ = ["ENGINES", "Summary", "score"]
