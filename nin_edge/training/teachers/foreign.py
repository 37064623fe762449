"""A classifier of another program in ONNX Runtime, its input and outputs checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from nin_edge.text import list_some
from nin_edge.training.teachers.spec import TeacherSpec
from nin_edge_runtime import ModelFileError
from nin_edge_runtime.model_file.strict_json import shortened
from nin_edge_runtime.preprocessing import Preprocessing
from nin_edge_runtime.providers import create_session

if TYPE_CHECKING:
    import onnxruntime

_LOW: Final = 0.99  # of a row of probabilities; half precision rounds
_HIGH: Final = 1.01


class ForeignModel:
    """A model of another program, with the normalisation that its JSON states."""

    preprocessing: Preprocessing
    """Size, channels and normalisation of its input."""

    def __init__(self, data: bytes, spec: TeacherSpec, name: str) -> None:
        """Start ONNX Runtime, on as many threads as torch has.

        Args:
            data: a serialised ONNX model.
            spec: what its JSON says.
            name: what messages call it.

        Raises:
            ModelFileError: it cannot be loaded, or its input or output is not of its form.
        """
        self._name, self._spec = name, spec
        self._session, _ = create_session(data, name, threads=torch.get_num_threads())
        self._output = self._choose_output(self._session.get_outputs())
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise self._error(f"{len(inputs)} inputs, expected one for the images")
        self._input, self._batch, self._layout, self.preprocessing = self._read_input(inputs[0])
        scale, shift = map(torch.from_numpy, self.preprocessing.scale_and_shift())
        self._scale, self._shift = scale.view(-1, 1, 1), shift.view(-1, 1, 1)

    def __call__(self, maps: Tensor) -> Tensor:
        """Logits, (N, K), with a free constant in each row.

        Args:
            maps: pixels 0 to 255, float32 (N, C, S, S).

        Raises:
            ModelFileError: it fails, or the outputs are not what the JSON says.
        """
        inputs = maps * self._scale + self._shift
        if self._layout == "NHWC":
            inputs = inputs.permute(0, 2, 3, 1)
        if not self._batch:
            return self._logits(inputs)
        parts = []
        for part in torch.split(inputs, self._batch):
            padding = part.new_zeros((self._batch - len(part), *part.shape[1:]))
            parts.append(self._logits(torch.cat([part, padding]))[: len(part)])
        return torch.cat(parts)

    def _logits(self, inputs: Tensor) -> Tensor:
        """The model's outputs as logits, (N, K), once they are checked."""
        array = inputs.contiguous().numpy()
        try:
            (found,) = self._session.run([self._output], {self._input: array})
        except Exception as error:  # ONNX Runtime's errors share no base class of their own
            raise self._error(f"fails at images of shape {array.shape} ({shortened(error)})") from (
                error
            )
        rows = torch.from_numpy(found)
        if rows.ndim < 2 or rows.shape != (len(inputs), rows.shape[1], *[1] * (rows.ndim - 2)):
            raise self._error(
                f"output {self._output!r} of shape {found.shape} for {len(inputs)} images, "
                f"expected ({len(inputs)}, classes)"
            )
        rows = rows.flatten(1)  # (N, K, 1, 1) -> (N, K)
        if not rows.isfinite().all():
            raise self._error("outputs NaN or infinity")
        if self._spec.outputs == "logits":
            return rows
        if not _sum_to_one(rows):
            raise self._error(
                f'outputs that are no probabilities {_span(rows)}: expected "outputs": "logits" in '
                "its JSON if it ends without a softmax"
            )
        return log_of(rows)

    def check_logits(self, logits: Tensor) -> None:
        """Refuse logits that are probabilities, which the logits of one image may look like.

        Args:
            logits: those of several different images, (N, K).

        Raises:
            ModelFileError: they are not what the JSON says.
        """
        if self._spec.outputs != "logits" or logits.min() < 0 or logits.max() > 1:
            return
        span = _span(logits)
        if _sum_to_one(logits):
            fault = f'probabilities {span}: expected "outputs": "probabilities" in its JSON'
        else:
            fault = f"values of 0 to 1 {span}, expected logits or probabilities that sum to 1"
        raise self._error(f"outputs {fault}")

    def _choose_output(self, nodes: list[onnxruntime.NodeArg]) -> str:
        names, name = [node.name for node in nodes], self._spec.output_name
        if name is None and len(names) > 1:
            raise self._error(
                f'{len(names)} outputs, expected "output_name" in its JSON: {list_some(names)}'
            )
        if name is not None and name not in names:
            raise self._error(f"no output {name[:80]!r}, expected one of {list_some(names)}")
        node = nodes[names.index(name) if name is not None else 0]
        if node.type != "tensor(float)":
            raise self._error(f"output {node.name!r} of type {node.type}, expected tensor(float)")
        return str(node.name)

    def _read_input(self, node: onnxruntime.NodeArg) -> tuple[str, int | None, str, Preprocessing]:
        """The input's name, its number of images if it is fixed, its layout and its size."""
        if node.type != "tensor(float)":
            raise self._error(f"input of type {node.type}, expected tensor(float)")
        # A name or None stands for a free dimension.
        shape = [side if isinstance(side, int) and side > 0 else None for side in node.shape]
        shown = f"input {str(node.shape)[:200]}"
        if len(shape) != 4:
            raise self._error(f"{shown}, expected four axes, NCHW or NHWC")
        layout = self._spec.layout or "NCHW"
        if self._spec.layout is None and shape[3] in (1, 3) and shape[1] not in (1, 3):
            raise self._error(f'{shown}, expected "layout": "NHWC" in its JSON')
        batch, channels, height, width = (shape[layout.index(axis)] for axis in "NCHW")
        if channels not in (None, 1, 3):
            raise self._error(f"{shown} with {channels} channels as {layout}, expected 1 or 3")
        if height != width:
            raise self._error(f"{shown}, expected a square image as {layout}")
        size = self._spec.size or height
        if size is None:
            raise self._error(f'{shown} of any size, expected "size" in its JSON')
        if height not in (None, size):
            raise self._error(f"{shown}, but its JSON has the size {size}")
        try:
            return node.name, batch, layout, self._spec.preprocessing(size, channels or 3)
        except ValueError as error:
            raise self._error(str(error)) from error

    def _error(self, fault: str) -> ModelFileError:
        return ModelFileError(f"{self._name}: {fault}")


def _sum_to_one(rows: Tensor) -> bool:
    sums = rows.sum(1)
    return bool(rows.min() >= 0 and sums.min() >= _LOW and sums.max() <= _HIGH)


def _span(rows: Tensor) -> str:
    sums = rows.sum(1)
    return f"(smallest {rows.min():.3g}, sums of {sums.min():.3g} to {sums.max():.3g})"


def log_of(probabilities: Tensor) -> Tensor:
    """Their logarithm; that of the smallest normal number where one is 0."""
    return probabilities.clamp_min(torch.finfo(torch.float32).tiny).log()
