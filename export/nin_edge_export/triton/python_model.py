"""Triton's Python backend: encoded images (JPEG, PNG, ...) to labels, by nin-edge's runtime.

Images are decoded, cropped and resized as in training. A request with an image that cannot be read
gets an error that names it; the others of its batch are answered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from nin_edge_runtime import Classifier, ImageError, Prediction
from nin_edge_runtime.threads import usable_threads

_BATCH = 8  # images of one inference; several run side by side, each on one thread


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the file that lies beside this one."""
        folder = Path(args["model_repository"]) / args["model_version"]
        self._classify = Classifier(folder / "model.onnx", provider="cpu", threads=1)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests of a batch, all of their images together."""
        inputs = [triton.get_input_tensor_by_name(request, "image") for request in requests]
        images = [tensor.as_numpy().reshape(-1).tolist() for tensor in inputs]  # (N, 1) -> bytes
        every = [image for own in images for image in own]
        workers = usable_threads() if len(every) > _BATCH else 0
        results = self._classify.stream(every, batch_size=_BATCH, workers=workers)
        return [self._respond([next(results) for _ in own]) for own in images]

    def _respond(self, results: list[Prediction | ImageError]) -> Any:
        """The response to one request."""
        for index, result in enumerate(results):
            if isinstance(result, ImageError):
                error = triton.TritonError(
                    f"image {index}: {result}", triton.TritonError.INVALID_ARG
                )
                return triton.InferenceResponse(error=error)
        found = [result for result in results if isinstance(result, Prediction)]
        labels = [[each.label.encode()] for each in found]
        outputs = {
            "label": np.array(labels, dtype=np.object_),  # (N, 1)
            "score": np.array([[each.score] for each in found], dtype=np.float32),  # (N, 1)
            "probabilities": np.stack([each.probabilities for each in found]),  # (N, K)
        }
        return triton.InferenceResponse([triton.Tensor(*output) for output in outputs.items()])
