"""How good predictions are: accuracy, calibration, loss; NumPy alone, whatever computed them."""

from nin_edge.metrics.history import DECISIVE, Epoch, best_epoch
from nin_edge.metrics.intervals import wilson_interval
from nin_edge.metrics.probabilities import (
    calibrated_loss,
    divergence,
    fit_temperature,
    softmax,
    uncalibrated,
)
from nin_edge.metrics.scores import (
    BINS,
    THRESHOLDS,
    Calibration,
    Scores,
    Tally,
    Threshold,
    at_thresholds,
    expected_calibration_error,
    top1,
)

__all__ = [
    "BINS",
    "DECISIVE",
    "THRESHOLDS",
    "Calibration",
    "Epoch",
    "Scores",
    "Tally",
    "Threshold",
    "at_thresholds",
    "best_epoch",
    "calibrated_loss",
    "divergence",
    "expected_calibration_error",
    "fit_temperature",
    "softmax",
    "top1",
    "uncalibrated",
    "wilson_interval",
]
