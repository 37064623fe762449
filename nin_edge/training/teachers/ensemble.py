"""The teachers of a training: checkpoints in PyTorch, model files in ONNX Runtime."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from nin_edge.kernels import compile_network, fold_batch_norm
from nin_edge.network import NetworkConfig, NiN, count_parameters
from nin_edge.predict import InputTransform
from nin_edge.text import list_some
from nin_edge.training.finetune import Pretrained
from nin_edge.training.teachers.onnx_teacher import TRIAL_IMAGES, OnnxTeacher
from nin_edge_runtime import ModelFileError

_CPU_BATCH: Final = 32  # images per teacher batch; at 128, each image takes up to 50% longer

Teacher: TypeAlias = Pretrained | OnnxTeacher
"""A trained network to learn from."""

_LogProbabilities: TypeAlias = Callable[[Tensor], Tensor]
"""uint8 pixels (N, S, S, C) of any size to log-probabilities, float32 (N, K)."""


def load_teacher(name: str | os.PathLike[str]) -> Teacher:
    """Read a checkpoint by path or name, or a model file (.onnx) by path.

    Raises:
        ModelFileError: there are no such weights, or the file cannot teach.
        MissingDependencyError: a model file, and ONNX Runtime is not installed.
    """
    is_model = Path(name).suffix.lower() == ".onnx"
    return OnnxTeacher.load(name) if is_model else Pretrained.load(name)


def teacher_fingerprint(teacher: Teacher) -> str:
    """SHA-256 of what decides its predictions, in hexadecimal."""
    if isinstance(teacher, OnnxTeacher):
        return teacher.sha256
    return teacher.checkpoint.fingerprint()


def teacher_size(teacher: Teacher) -> int:
    """Side of the images that it takes, in pixels."""
    return teacher.size if isinstance(teacher, OnnxTeacher) else teacher.checkpoint.config.size


def check_teacher(teacher: Teacher, labels: tuple[str, ...], channels: int) -> None:
    """Check that a teacher knows what its student is to learn.

    Args:
        teacher: the teacher.
        labels: the student's classes; a checkpoint has them in the same order.
        channels: channels of the student's input.

    Raises:
        ModelFileError: its classes or channels are others; the message names both.
    """
    if isinstance(teacher, OnnxTeacher):
        own, own_channels = teacher.labels, teacher.channels
        if own is None and teacher.outputs != len(labels):
            raise ModelFileError(
                f"{teacher.name}: a teacher with {teacher.outputs} outputs, expected one for each "
                f"class of the data: {list_some(labels)}"
            )
        same, order = own is None or sorted(own) == sorted(labels), ""
    else:
        own, own_channels = teacher.checkpoint.labels, teacher.checkpoint.config.channels
        same, order = own == labels, " in their order"
    if own and not same:
        raise ModelFileError(
            f"{teacher.name}: a teacher of the classes {list_some(own)}, "
            f"expected those of the data{order}: {list_some(labels)}"
        )
    if own_channels != channels:
        raise ModelFileError(
            f"{teacher.name}: a teacher with {own_channels} channels, expected the student's "
            f"{channels}"
        )


def teacher_notes(
    teacher: Teacher, network: NetworkConfig, labels: tuple[str, ...]
) -> tuple[str, ...]:
    """What the user may not expect of a teacher.

    Args:
        teacher: the teacher.
        network: its student.
        labels: the student's classes.
    """
    notes = []
    if isinstance(teacher, OnnxTeacher):
        parameters = teacher.parameters
        if teacher.labels is None:
            notes.append(
                f"{teacher.name}: names no classes, its {teacher.outputs} outputs are taken for "
                f'{list_some(labels)}; "labels" in its JSON names them'
            )
    else:
        parameters = count_parameters(teacher.checkpoint.config)
    if parameters is not None and count_parameters(network) > parameters:
        notes.append(f"{teacher.name}: a teacher that is smaller than its student")
    return tuple(notes)


def teachers_work(
    teachers: Sequence[Teacher], network: NetworkConfig, device: torch.device
) -> float:
    """Work of the teachers in a step, in units of the student's step (`Plan.work`).

    Args:
        teachers: the teachers.
        network: their student.
        device: where it is trained.
    """
    forward = 0.0  # in units of the student's forward pass
    for teacher in teachers:
        if isinstance(teacher, OnnxTeacher):  # nothing says its multiply-adds
            forward += teacher.seconds_per_image / _seconds_per_image(network, device)
        else:
            forward += teacher.checkpoint.config.multiply_adds() / network.multiply_adds()
    # They run forward only. The network's backward pass costs twice as much as its forward one.
    return forward / 3


@torch.inference_mode()
def _seconds_per_image(config: NetworkConfig, device: torch.device) -> float:
    """How long the forward pass of a network takes for an image."""
    network = NiN(config).eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.zeros(TRIAL_IMAGES, config.channels, config.size, config.size, device=device)
    seconds = 0.0
    for _ in range(2):  # the second time nothing is allocated
        started = time.perf_counter()
        network(images).cpu()
        seconds = time.perf_counter() - started
    return seconds / TRIAL_IMAGES


class Teachers:
    """Trained networks whose mean prediction another network learns (Hinton et al., 1503.02531).

    The mean of their probabilities is an ensemble, which is mostly more accurate than each of them.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        labels: tuple[str, ...],
        channels: int,
        device: torch.device | str = "cpu",
        *,
        compiled: bool = False,
    ) -> None:
        """Put the networks on a device; model files stay where ONNX Runtime has them.

        Args:
            teachers: the networks, at least one.
            labels: the student's classes.
            channels: channels of the student's input.
            device: device to compute on.
            compiled: whether to compile the networks with torch.compile.

        Raises:
            ModelFileError: a teacher's classes or channels are not the student's; the message names
                both.
        """
        for teacher in teachers:
            check_teacher(teacher, labels, channels)
        self._teachers: list[_LogProbabilities] = [
            _in_order(teacher, labels)
            if isinstance(teacher, OnnxTeacher)
            else _network(teacher, device, compiled=compiled)
            for teacher in teachers
        ]

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """The log of the mean probabilities, (N, K), for uint8 pixels (N, S, S, C) of any size."""
        each = torch.stack([predict(pixels) for predict in self._teachers])
        return each.logsumexp(0) - math.log(len(each))  # (teachers, N, K) -> (N, K)


def _network(
    teacher: Pretrained, device: torch.device | str, *, compiled: bool
) -> _LogProbabilities:
    """A checkpoint's predictions."""
    checkpoint = teacher.checkpoint
    network = checkpoint.network().requires_grad_(False)
    fold_batch_norm(network)
    network = network.to(device)
    forward = compile_network(network) if compiled else network
    transform, side = InputTransform(checkpoint.preprocessing, device), checkpoint.config.size

    def predict(pixels: Tensor) -> Tensor:
        inputs = transform(pixels)
        if inputs.shape[-1] != side:
            inputs = functional.interpolate(inputs, [side, side], mode="bilinear", antialias=True)
        batch = _CPU_BATCH if inputs.device.type == "cpu" else len(inputs)
        logits = torch.cat([forward(part) for part in torch.split(inputs, batch)])
        return logits.float().log_softmax(1)

    return predict


def _in_order(teacher: OnnxTeacher, labels: tuple[str, ...]) -> _LogProbabilities:
    """A model file's predictions in the order of the student's classes."""
    own = teacher.labels
    if own is None:
        return teacher
    order = torch.tensor([own.index(label) for label in labels])
    return lambda pixels: teacher(pixels)[:, order.to(pixels.device)]
