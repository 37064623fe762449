"""What the caller of `nin_edge.train` asks for, checked before any image is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from nin_edge.checkpoint import DataSource
from nin_edge.data import Dataset
from nin_edge.network import NetworkConfig
from nin_edge.text import is_utf8
from nin_edge.training.errors import SettingError
from nin_edge.training.finetune import Pretrained
from nin_edge.training.recipe import RECIPES, Recipe
from nin_edge.training.run_config import RunConfig
from nin_edge.training.settings import NETWORK_NAMES, RECIPE_NAMES, Settings

DEFAULT_PRESET = "nin-bn"

_CHANNELS = 3  # of the weights that know photos

FROM_SCRATCH = "none"
"""What `init` is to train from random weights."""

LONGEST_LATENCY = 1000.0
"""Milliseconds; networks that take longer could not be timed within a minute."""


@dataclass(frozen=True)
class Request:
    """What the caller asks for; None where the choice is left to nin-edge."""

    init: str | None
    """Path or name of the weights to start from; `FROM_SCRATCH` for random ones."""
    preset: str | None
    """Name of a network preset."""
    width: float | None
    """Multiplier of the preset's channel counts."""
    size: int | None
    """Side of the network's input in pixels."""
    distill_from: tuple[str, ...]
    """Paths of teachers (checkpoints, ONNX models) or names of weights."""
    settings: Settings
    """The rarer settings."""

    @property
    def from_scratch(self) -> bool:
        """Whether random weights are asked for, if only by another network than any that ships."""
        if self.init is not None:
            return self.init == FROM_SCRATCH
        given = (self.preset, self.width, self.settings.get("latency"))
        if any(value is not None for value in given):
            return True
        return self.settings.get("channels") not in (None, _CHANNELS)

    def check(self) -> None:
        """Refuse settings of a new run that would have no effect.

        Raises:
            SettingError: the message names the setting.
        """
        texts = {"init": self.init, "distill_from": " ".join(self.distill_from), **self.settings}
        for name, value in texts.items():
            if isinstance(value, str) and not is_utf8(value):
                raise SettingError(f"{name} is {value!r}: expected UTF-8, to be written down")
        if "distill_weight" in self.settings and not self.distill_from:
            raise SettingError(
                f"distill_weight is {self.settings['distill_weight']}: without distill_from, there "
                "is no teacher"
            )
        if (latency := self.settings.get("latency")) is not None:
            self._check_latency(latency)

    def network(
        self,
        initial: Pretrained | None,
        native_shape: tuple[int, int] | None = None,
        *,
        classes: int | None = None,
    ) -> NetworkConfig:
        """The network.

        Args:
            initial: the weights to start from.
            native_shape: side and channels of the data's images, if they all have the same.
            classes: number of classes of the data; that of the weights or the preset before the
                data are read.

        Raises:
            SettingError: a setting is out of its range, or not that of the initial weights.
        """
        changes = self._given(NETWORK_NAMES)
        if classes is not None:
            changes["classes"] = classes
        if self.size is not None:
            changes["size"] = self.size
        if initial:
            self._check_initial(initial)
            with _refused_as_setting():
                return replace(initial.checkpoint.config, **changes)  # type: ignore[arg-type]
        if native_shape:
            changes = {"size": native_shape[0], "channels": native_shape[1]} | changes
        if self.width is not None:
            changes["width"] = self.width
        with _refused_as_setting():
            return NetworkConfig.from_preset(self.preset or DEFAULT_PRESET, **changes)  # type: ignore[arg-type]

    def check_recipe(self, initial: Pretrained | None) -> None:
        """Refuse a recipe that cannot train, before any image is read.

        Args:
            initial: the weights to start from.

        Raises:
            SettingError: a setting is out of its range, or not that of the initial weights.
        """
        network = self.network(initial)
        preset, changes = RECIPES.get(network.preset, Recipe()), self._given(RECIPE_NAMES)
        with _refused_as_setting():
            recipe = replace(preset, **changes)  # type: ignore[arg-type]
            recipe.check_blocks(len(network.blocks))
        if recipe.frozen_blocks and not initial:
            raise SettingError(
                f"frozen_blocks is {recipe.frozen_blocks}: without init, there are no trained "
                "weights to keep"
            )

    def recipe(
        self, dataset: Dataset, network: NetworkConfig, *, fine_tuning: bool, processes: int
    ) -> Recipe:
        """The recipe: suited to the data, with the settings that are given."""
        changes = self._given(RECIPE_NAMES)
        return Recipe.suited_to(
            dataset, network, fine_tuning=fine_tuning, processes=processes, **changes
        )

    def source(self, dataset: Dataset) -> DataSource:
        """Name and licence of the data."""
        return DataSource(
            self.settings.get("data_name") or dataset.name,
            self.settings.get("data_licence", DataSource.licence),
        )

    def check_resumes(self, stored: RunConfig) -> None:
        """Check that nothing is asked for that the run to resume does not have.

        Args:
            stored: configuration of the run.

        Raises:
            SettingError: a setting is another one; the message has both.
        """
        location = stored.location
        own = {
            **({"test_split": location.test_split} if location else {}),
            **asdict(stored.network),
            **asdict(stored.recipe),
            "data_name": stored.data.name,
            "data_licence": stored.data.licence,
            "init": stored.init and stored.init.weights,
            "latency": stored.latency and stored.latency.target_ms,
        }
        named = {
            "init": None if self.init == FROM_SCRATCH and not stored.init else self.init,
            "preset": self.preset,
            "width": self.width,
            "size": self.size,
            **self.settings,
        }
        for name, value in named.items():
            if value is not None and name in own and value != own[name]:
                raise SettingError(
                    f"{name} is {value}: the run to resume was started with {own[name]}"
                )

    def _given(self, names: tuple[str, ...]) -> dict[str, object]:
        return {name: value for name, value in self.settings.items() if name in names}

    def _check_latency(self, latency: float) -> None:
        """Refuse a latency that is out of its range, or where the width is not free."""
        if not 0 < latency <= LONGEST_LATENCY:
            raise SettingError(
                f"latency is {latency}: expected milliseconds above 0, at most {LONGEST_LATENCY:g}"
            )
        if self.width is not None:
            raise SettingError(f"latency is {latency}: it chooses the width, which is {self.width}")
        if not self.from_scratch:
            raise SettingError(
                f"latency is {latency}: it chooses the width, but the weights of {self.init} have "
                "their own"
            )

    def _check_initial(self, initial: Pretrained) -> None:
        """Refuse a network other than that of the weights to start from."""
        config = initial.checkpoint.config
        for name, value, own in (
            ("preset", self.preset, config.preset),
            ("width", self.width, config.width),
            ("channels", self.settings.get("channels"), config.channels),
        ):
            if value not in (None, own):
                raise SettingError(f"{name} is {value}: the weights of {initial.name} have {own}")


@contextmanager
def _refused_as_setting() -> Iterator[None]:
    """Context in which a ValueError means that a setting is out of its range."""
    try:
        yield
    except ValueError as error:
        raise SettingError(str(error)) from error
