"""Make the tiny checkpoint and models that the tests use: `python tests/data/make_models.py`.

Their weights are random (seeded) and their golden samples fit them; they know nothing of images,
but every path of the runtime runs over them in milliseconds. `format-1.fp32.onnx` stays as it is
when the artifact's format moves on: readers have to accept it for ever.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from nin_edge import predict
from nin_edge.checkpoint import Checkpoint, DataSource
from nin_edge.network import NetworkConfig, NiN
from nin_edge.quantised_points import activation_ranges
from nin_edge_export import ExportOptions, export_models
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.preprocessing import Preprocessing

HERE = Path(__file__).parent


def tiny_checkpoint(channels: int = 3) -> Checkpoint:
    """A network of 8 channels a layer for three classes, 16 x 16."""
    torch.manual_seed(channels)
    config = NetworkConfig.from_preset("nin-bn", classes=3, channels=channels, size=16, width=0.01)
    network = NiN(config).eval()
    with torch.no_grad():  # answers firm enough for golden samples: scale the last layer up
        network.stages[-1][-1].weight *= 12  # type: ignore[operator, index]
    preprocessing = Preprocessing(16, channels, mean=(0.5,) * channels, std=(0.25,) * channels)
    images = np.stack(
        [preprocessing.resize(golden_image(1000 + seed, 24, 24)) for seed in range(64)]
    )
    return Checkpoint(
        config=config,
        weights={name: value.clone() for name, value in network.state_dict().items()},
        labels=("circle", "square", "étoile"),
        preprocessing=preprocessing,
        data=DataSource("golden images", "made by a formula"),
        ranges=activation_ranges(network, predict.inputs(preprocessing, images, np.arange(64)), 64),
        temperature=1.5,
    )


if __name__ == "__main__":
    colour, grey = tiny_checkpoint(), tiny_checkpoint(channels=1)
    colour.save(HERE / "tiny.safetensors")
    for name, checkpoint, embedded in (
        ("format-1", colour, "full"),
        ("normalize", colour, "normalize"),
        ("none", colour, "none"),
        ("grey", grey, "full"),
        ("grey-none", grey, "none"),
    ):
        options = ExportOptions(precisions=("fp32",), embedded=embedded)
        (model,) = export_models(checkpoint, options)
        (HERE / f"{name}.fp32.onnx").write_bytes(model.data)
        print(name, len(model.data), model.info.certificate.golden)
