"""How a network is trained, in numbers. No torch here: the command line reads this, too."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nin_edge.data import Dataset
    from nin_edge.network import NetworkConfig

UNEQUAL: Final = 1.5
"""Ratio of the largest class to the smallest from which a training balances the classes."""

RANGES: Final = {
    "epochs": (1, 100_000),
    "batch_size": (2, 65_536),
    "learning_rate": (1e-9, 1e3),
    "warmup": (0, 1),
    "momentum": (0, 0.9999),
    "weight_decay": (0, 1),
    "muon_rate": (0, 100),
    "muon_momentum": (0, 0.9999),
    "label_smoothing": (0, 0.99),
    "distill_weight": (0, 1),
    "low_resolution": (0, 1),
    "crop": (0, 16),
    "scale": (0.05, 1),
    "whole_images": (0, 1),
    "colour": (0, 0.9),
    "cutout": (0, 32),
    "cutmix": (0, 1),
    "patience": (0, 100_000),
    "frozen_blocks": (0, 100),
    "seed": (0, 2**31 - 1),
}
"""Smallest and largest value of each number in a recipe."""

_STEPS_PER_EPOCH: Final = 20  # with fewer, the epochs are over before anything is learnt
_SMALLEST_SHARE: Final = 16  # images of a process: with fewer, batch statistics are too noisy


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; with network, data and machine it determines the result.

    Muon trains the convolutions with batch normalisation, SGD everything else.
    """

    epochs: int = 10
    """Number of passes over the training images."""
    batch_size: int = 250
    """Images per step, of all processes together."""
    learning_rate: float = 0.2
    """Peak learning rate of SGD in the one-cycle schedule; Muon's is `muon_rate` times as high."""
    warmup: float = 0.05
    """Fraction of all steps in which the learning rate rises to its peak; then it falls to 0."""
    momentum: float = 0.9
    """Nesterov momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 penalty on the convolution weights that SGD trains; Muon keeps the norm of its weights."""
    muon_rate: float = 0.4
    """Learning rate of Muon relative to that of SGD; 0 trains everything by SGD."""
    muon_momentum: float = 0.6
    """Nesterov momentum of Muon."""
    label_smoothing: float = 0.2
    """Fraction of the target probability that is spread evenly over all classes."""
    distill_weight: float = 0.5
    """Weight of the distillation loss, if there are teachers; the labels' loss has the rest."""
    low_resolution: float = 0.5
    """Fraction of all steps, from the first, at five eighths of the image side."""
    crop: int = 2
    """Largest random shift of an image, in pixels per 32 of its side."""
    scale: float = 1.0
    """Smallest area of a random part of each image that is enlarged to its side; 1: none is."""
    whole_images: float = 0.0
    """Fraction of full-resolution steps, to the last, with whole images, as devices see them."""
    colour: float = 0.0
    """Largest relative change of each image's brightness, contrast and saturation."""
    cutout: int = 0
    """Side of the square that cutout covers, in pixels per 32 of the image side; 0: no cutout."""
    cutmix: float = 0.0
    """Fraction of the images of which CutMix replaces a square by that of another image."""
    flip: bool = True
    """Whether each image is mirrored in every other epoch."""
    balanced: bool = False
    """Subsample large classes and repeat small ones, so that all are seen equally often."""
    patience: int = 0
    """Stop after so many full-size epochs without a lower loss of 200 held-out images; 0: never."""
    frozen_blocks: int = 0
    """Number of blocks, from the first, whose weights are not trained."""
    round_weights: bool = True
    """Whether the final weights are rounded to those of int8, which then costs less accuracy."""
    bf16: bool = False
    """Compute in bfloat16, fast on processors with AMX and recent GPUs; weights stay float32."""
    fp16: bool = False
    """Compute in float16 with loss scaling, for GPUs without bfloat16; weights stay float32."""
    seed: int = 0
    """Seed of the initial weights, the order of the images, their augmentation and dropout."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train.

        Raises:
            ValueError: a field is out of its range; the message names it and the range.
        """
        for field in fields(self):
            value: Any = getattr(self, field.name)
            default: Any = field.default
            # An integer is a number, too; but True, which Python counts as an integer, is neither.
            accepted: Any = (int, float) if isinstance(default, float) else type(default)
            low, high = RANGES.get(field.name, (False, True))  # without a range: a switch
            if (
                not isinstance(value, accepted)
                or isinstance(value, bool) != isinstance(default, bool)
                or not low <= value <= high
            ):
                raise ValueError(f"{field.name} is {value!r}: expected {low} to {high}")
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 are both on: expected one of them")

    def check_blocks(self, blocks: int) -> None:
        """Refuse a network without a block to train.

        Args:
            blocks: number of its blocks.

        Raises:
            ValueError: all are frozen.
        """
        if self.frozen_blocks >= blocks:
            raise ValueError(
                f"frozen_blocks is {self.frozen_blocks}: expected fewer than the network's "
                f"{blocks} blocks, the last one has the new layer"
            )

    @classmethod
    def suited_to(
        cls,
        dataset: Dataset,
        network: NetworkConfig,
        *,
        fine_tuning: bool = False,
        processes: int = 1,
        **changes: object,
    ) -> Recipe:
        """The recipe for a network and a data set.

        It starts from the preset's recipe. Small data sets get smaller batches, digits are not
        mirrored, and classes of unequal size are balanced. Fine-tuning on photos has its own
        augmentation, more epochs the fewer photos there are, and a lower rate for few.

        Args:
            dataset: the data to train on.
            network: the network to train.
            fine_tuning: whether it starts from trained weights.
            processes: number of processes that share each batch.
            changes: values of fields, which take precedence over all of this.

        Raises:
            ValueError: a field is out of its range.
            TypeError: no such field.
        """
        preset = RECIPES.get(network.preset, cls())
        suited: dict[str, object] = {
            "batch_size": suited_batch_size(
                preset.batch_size, len(dataset.train), processes=processes
            ),
            "flip": preset.flip and dataset.official != "mnist",
            "balanced": is_unequal(dataset.targets[dataset.train]),
        }
        if fine_tuning and dataset.official is None:
            photos = len(dataset.train)
            epochs = round(_SHOWN / max(1, photos))
            suited |= _FINE_TUNING | {"epochs": min(max(epochs, _FEWEST), _MOST)}
            if photos < _FEW:
                suited |= _OF_FEW | {"learning_rate": _RATE_OF_FEW * preset.learning_rate}
        return replace(preset, **suited | changes)  # type: ignore[arg-type]


_FINE_TUNING: Final[dict[str, object]] = {
    "crop": 0,
    "scale": 0.5,
    # A random part shows things larger than the whole image that a device sees; the last steps
    # make up for it (Touvron et al. 2019, "Fixing the train-test resolution discrepancy").
    "whole_images": 0.4,
    "colour": 0.2,
}
_OF_FEW: Final[dict[str, object]] = {"low_resolution": 0.0}
_RATE_OF_FEW: Final = 0.5  # times the preset's learning rate
_FEW: Final = 1000  # photos below which the weights are kept closer to those at the start
_SHOWN: Final = 60_000  # photos, of all epochs: some minutes on two cores
_FEWEST, _MOST = 10, 120  # epochs

RECIPES: Final = {
    # Without batch normalisation, a learning rate ten times as high diverges; and SGD needs more
    # steps an epoch than Muon, so smaller batches.
    "nin": Recipe(batch_size=128, learning_rate=0.02, low_resolution=0.0),
    "nin-bn": Recipe(),
    "nin-deep": Recipe(),
    "nin-photo": Recipe(scale=0.5, colour=0.2, label_smoothing=0.1, low_resolution=0.6),
    "nin-photo-large": Recipe(scale=0.5, colour=0.2, label_smoothing=0.1, low_resolution=0.6),
    "nin-imagenet": Recipe(batch_size=64),
}
"""The recipe of each network preset."""


def suited_batch_size(batch_size: int, images: int, *, processes: int = 1) -> int:
    """The batch size for a data set: smaller for few images, for about 20 steps an epoch.

    Args:
        batch_size: batch size for many images.
        images: number of training images.
        processes: number of processes that share each batch equally.

    Returns:
        A multiple of `processes`, at least two images for each.
    """
    batch = min(batch_size, max(_SMALLEST_SHARE * processes, images // _STEPS_PER_EPOCH))
    return max(2 * processes, batch - batch % processes)


def is_unequal(targets: NDArray[np.int64]) -> bool:
    """Whether the classes differ so much in size that the small ones would be neglected.

    Args:
        targets: class of each image, (N,).
    """
    import numpy as np

    counts = np.unique(targets, return_counts=True)[1]
    return bool(counts.max() >= UNEQUAL * counts.min())
