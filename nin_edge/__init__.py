"""nin-edge: a Network-in-Network classifier from PyTorch training to one ONNX file on a device.

>>> import nin_edge
>>> run = nin_edge.train("photos", init="nin-cifar10-half")
>>> run.export("models")

The names are imported when they are first used, so `import nin_edge` does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nin_edge._version import __version__ as __version__

__all__ = [
    "Checkpoint",
    "NetworkConfig",
    "Recipe",
    "evaluate",
    "export",
    "open_dataset",
    "train",
]

if TYPE_CHECKING:
    from nin_edge.api import evaluate, export, open_dataset, train
    from nin_edge.checkpoint import Checkpoint
    from nin_edge.network import NetworkConfig
    from nin_edge.training.recipe import Recipe

_MODULES = {
    "Checkpoint": "checkpoint",
    "NetworkConfig": "network",
    "Recipe": "training.recipe",
    "evaluate": "api",
    "export": "api",
    "open_dataset": "data",
    "train": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
