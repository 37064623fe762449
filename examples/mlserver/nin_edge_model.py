"""Serve a model file by KServe's V2 protocol: `mlserver start examples/mlserver`.

Input `image`: BYTES (N), encoded images in base64. Outputs: `label`, `score` and `probabilities`.
`uri` in model-settings.json names the model file.
"""

from __future__ import annotations

import asyncio

import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.errors import InferenceError, MLServerError
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri

from nin_edge_runtime import Classifier, ImageError, NinEdgeError


class NinEdgeModel(MLModel):
    """Classifies the images of a request by one run of the network."""

    async def load(self) -> bool:
        """Load the file; where it is bad, this raises, and MLServer keeps what it serves."""
        try:
            self._classify = Classifier(await get_model_uri(self.settings))
        except NinEdgeError as error:
            raise MLServerError(str(error)) from error
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a request, or refuse it with one line."""
        try:
            images = _images(payload)
            found = await asyncio.to_thread(self._classify.batch, images)  # others are served, too
        except ImageError as error:
            raise InferenceError(str(error)) from error
        probabilities = np.stack([one.probabilities for one in found])  # (N, K)
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                StringCodec.encode_output("label", [one.label for one in found]),
                NumpyCodec.encode_output("score", probabilities.max(axis=1)),
                NumpyCodec.encode_output("probabilities", probabilities),
            ],
        )


def _images(payload: InferenceRequest) -> list[bytes]:
    """The encoded images of a request."""
    if len(payload.inputs) != 1:
        raise InferenceError(f"the request has {len(payload.inputs)} inputs, expected one: image")
    (image,) = payload.inputs
    if image.datatype != "BYTES":
        raise InferenceError(f"{image.name} is {image.datatype}, expected images as BYTES")
    data = image.data.root
    if not data or not all(isinstance(item, str | bytes) for item in data):
        raise InferenceError(f"{image.name} has no images, expected base64 texts as data")
    return list(Base64Codec.decode_input(image))
