"""A teacher from a model file: any ONNX classifier, run by ONNX Runtime.

A file of `nin-edge export` says itself what it takes. For any other, FILE.json beside FILE.onnx
does (`TeacherSpec`). ONNX Runtime gets the file's bytes alone: a file that names others is refused,
and so are operators that ONNX Runtime does not have.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from nin_edge.training.teachers.external import has_external_data
from nin_edge.training.teachers.foreign import ForeignModel, log_of
from nin_edge.training.teachers.spec import EXAMPLE, TeacherSpec
from nin_edge_runtime import ModelFileError
from nin_edge_runtime.model_file import read_model
from nin_edge_runtime.model_file.read import find_sha256
from nin_edge_runtime.preprocessing import Preprocessing
from nin_edge_runtime.session import ModelSession

TRIAL_IMAGES: Final = 8
"""Images of the run that checks a model's outputs and measures its time."""

_BATCH: Final = 32  # images of a run: the activations of large networks fill the memory

_Forward: TypeAlias = Callable[[Tensor], Tensor]
"""Pixels 0 to 255, float32 (N, C, S, S), to logits (N, K), with a free constant in each row."""


@dataclass(frozen=True, eq=False)
class OnnxTeacher:
    """A model that teaches, running in ONNX Runtime."""

    name: str
    """Path of the file."""
    sha256: str
    """SHA-256 of the file and of what its JSON says, in hexadecimal."""
    labels: tuple[str, ...] | None
    """Class of each output; None if nothing says."""
    outputs: int
    """Number of its outputs K."""
    size: int
    """Side of its input in pixels."""
    channels: int
    """Channels of its input, 1 or 3."""
    parameters: int | None
    """Number of its trained parameters; None if not known."""
    seconds_per_image: float
    """How long a prediction takes here."""
    forward: _Forward
    """Pixels at its own size to logits."""

    @classmethod
    def load(cls, name: str | os.PathLike[str]) -> Self:
        """Read a model file, run it once and check its outputs.

        It runs where `NIN_EDGE_PROVIDER` says, else on CUDA where ONNX Runtime has it, else on as
        many threads as torch.

        Raises:
            ModelFileError: no such file, or not a classifier that can teach; the message says what
                is wrong, and what FILE.json has to say.
            MissingDependencyError: ONNX Runtime is not installed.
        """
        path = Path(name)
        data, described = _read_model_file(path), path.with_suffix(".json")
        digest, parameters = hashlib.sha256(data), None
        forward: _Forward
        if described.exists():
            spec = TeacherSpec.read(described)
            digest.update(json.dumps(asdict(spec)).encode())
            model = ForeignModel(data, spec, str(path))
            steps, labels, forward = model.preprocessing, spec.labels, model
        elif _is_own(data, path):
            data, info = read_model(path)
            threads = torch.get_num_threads()
            session = ModelSession(data, info, str(path), threads=threads)
            steps, labels, forward = info.preprocessing, info.labels, _own_forward(session)
            parameters = info.parameters
        else:
            raise ModelFileError(
                f"{path}: an ONNX model of another program, expected {described.name} beside it, "
                f"for example {EXAMPLE}"
            )
        logits, seconds = _try(forward, steps)
        outputs = logits.shape[1]
        if isinstance(forward, ForeignModel):
            forward.check_logits(logits)
        if labels and len(labels) != outputs:
            raise ModelFileError(
                f"{described}: {len(labels)} labels, expected one for each of {outputs} outputs"
            )
        return cls(
            name=str(path),
            sha256=digest.hexdigest(),
            labels=labels,
            outputs=outputs,
            size=steps.size,
            channels=steps.channels,
            parameters=parameters,
            seconds_per_image=seconds,
            forward=forward,
        )

    def __call__(self, pixels: Tensor) -> Tensor:
        """The log-probabilities, float32 (N, K), of uint8 pixels (N, S, S, C) of any size S."""
        maps = pixels.permute(0, 3, 1, 2).float()  # (N, S, S, C) -> (N, C, S, S)
        if maps.shape[-1] != self.size:
            side = [self.size, self.size]
            maps = functional.interpolate(maps, side, mode="bilinear", antialias=True)
        logits = torch.cat([self.forward(part.cpu()) for part in torch.split(maps, _BATCH)])
        return logits.log_softmax(1).to(pixels.device)


def _own_forward(session: ModelSession) -> _Forward:
    """A model from `nin-edge export`; its logits are those before the temperature."""

    def forward(maps: Tensor) -> Tensor:
        pixels = maps.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8)
        probabilities, _ = session.run(pixels.contiguous().numpy())
        return log_of(torch.from_numpy(probabilities)) * session.info.temperature

    return forward


def _try(forward: _Forward, steps: Preprocessing) -> tuple[Tensor, float]:
    """Logits of different images, and seconds per image, of a model that takes such images."""
    noise, side = torch.Generator().manual_seed(0), [steps.size, steps.size]
    maps = torch.cat(
        [  # from one colour to 8 x 8 patches: images as different as photos
            functional.interpolate(
                torch.rand((1, steps.channels, patches, patches), generator=noise) * 255, side
            )
            for patches in range(1, TRIAL_IMAGES + 1)
        ]
    )
    logits = forward(maps)
    started = time.perf_counter()
    forward(maps)
    return logits, (time.perf_counter() - started) / TRIAL_IMAGES


def _read_model_file(path: Path) -> bytes:
    """The bytes of a model that has everything in one file."""
    if path.exists() and not path.is_file():  # a pipe would block
        raise ModelFileError(f"{path}: not a plain file, expected an .onnx model")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror}, expected an .onnx model") from error
    try:
        external = has_external_data(data)
    except ValueError as error:
        raise ModelFileError(f"{path}: not an ONNX model, or a truncated one ({error})") from error
    if external:
        # ONNX Runtime would look for it in the current folder, and a fingerprint has to cover it.
        raise ModelFileError(
            f"{path}: its weights are in another file, expected all in one: "
            f"torch.onnx.export(..., external_data=False) or onnx.save(onnx.load({path.name!r}), "
            "'one.onnx')"
        )
    return data


def _is_own(data: bytes, path: Path) -> bool:
    try:
        return find_sha256(data) is not None
    except ValueError as error:
        raise ModelFileError(f"{path}: not an ONNX model, or a damaged one ({error})") from error
