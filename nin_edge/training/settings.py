"""The rarer settings of a training, by name: what `nin_edge.train(...)` and `--set` take.

No torch here: the command line lists the names in its help.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Final, NoReturn, TypedDict, get_type_hints

from nin_edge.training.recipe import RANGES, Recipe


class Settings(TypedDict, total=False):
    """Settings that have defaults suited to the data, the network or the weights to start from."""

    epochs: int
    batch_size: int
    learning_rate: float
    warmup: float
    momentum: float
    weight_decay: float
    muon_rate: float
    muon_momentum: float
    label_smoothing: float
    distill_weight: float
    low_resolution: float
    crop: int
    scale: float
    whole_images: float
    colour: float
    cutout: int
    cutmix: float
    flip: bool
    balanced: bool
    patience: int
    frozen_blocks: int
    round_weights: bool
    bf16: bool
    fp16: bool
    seed: int
    latency: float
    """Milliseconds of an image in int8, on one thread of this machine, that decide the width."""
    dropout: float
    """Dropout probability of the network after each pooling, 0 to below 1."""
    channels: int
    """Channels of the network's input: 3 (RGB) or 1 (luma)."""
    data_name: str
    """Name of the data set, for the model's metadata."""
    data_licence: str
    """Note on the licence of the images, for the model's metadata."""
    official: str
    """Official data set that the data are, a key of `nin_edge.data.OFFICIAL`; or `folder`."""
    labels: str
    """Table of the images' classes, a CSV file with the columns image and label."""
    test_split: float
    """Part of each class's training images that becomes the test split, for data without one."""
    zip_encoding: str
    """Encoding of the names in a zip that does not state it, such as `cp949`; guessed if absent."""
    download: bool
    """Whether to download the official data set if it is not there."""
    skip_unreadable: bool
    """Whether to leave out files and folders that cannot be read, instead of stopping."""


Value = int | float | bool | str
"""Value of a setting."""

TYPES: Final[Mapping[str, type]] = get_type_hints(Settings)
"""Type of each setting by its name."""

RECIPE_NAMES: Final = tuple(field.name for field in fields(Recipe))
"""The settings that are fields of `Recipe`; its docstrings say what they mean."""

NETWORK_NAMES: Final = ("dropout", "channels")
"""The settings that are fields of `NetworkConfig`."""

_EXPECTED: Final = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
}
_BOOLEANS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse_setting(text: str, names: tuple[str, ...] = tuple(TYPES)) -> tuple[str, Value]:
    """Read NAME=VALUE.

    Args:
        text: the text, for example `cutmix=0.5`.
        names: the names to accept.

    Raises:
        SettingError: no such name, or a value of another type.
    """
    name, separator, value = (part.strip() for part in text.partition("="))
    if not separator:
        _refuse(f"{text!r}: expected NAME=VALUE, for example batch_size=64")
    check_names([name], names)
    try:
        return name, _BOOLEANS[value.lower()] if TYPES[name] is bool else TYPES[name](value)
    except (ValueError, KeyError):
        _refuse(f"{name} is {value!r}: expected {expected(name)}")


def check_names(given: list[str], names: tuple[str, ...] = tuple(TYPES)) -> None:
    """Refuse a setting that does not exist.

    Raises:
        SettingError: no such name; the message lists those there are.
    """
    for name in given:
        if name not in names:
            _refuse(f"unknown setting {name!r}: expected one of {', '.join(sorted(names))}")


def check_settings(settings: Settings) -> None:
    """Refuse settings that do not exist or have another type.

    Raises:
        SettingError: the message names the setting and what is expected.
    """
    check_names(list(settings))
    for name, value in settings.items():
        # An integer is a number, too; but True, which Python counts as an integer, is neither.
        accepted = (int, float) if TYPES[name] is float else TYPES[name]
        if not isinstance(value, accepted) or isinstance(value, bool) != (TYPES[name] is bool):
            _refuse(f"{name} is {value!r}: expected {expected(name)}")


def expected(name: str) -> str:
    """Type and range of a setting, in words."""
    low_high = f", {RANGES[name][0]} to {RANGES[name][1]}" if name in RANGES else ""
    return _EXPECTED[TYPES[name]] + low_high


def _refuse(message: str) -> NoReturn:
    from nin_edge.training.errors import SettingError

    raise SettingError(message)
