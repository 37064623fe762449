"""What anyone would write by hand: a photo's label with numpy, Pillow and onnxruntime alone."""

import sys

import numpy as np
import onnxruntime
from PIL import Image

LABELS = "airplane automobile bird cat deer dog frog horse ship truck".split()  # noqa: SIM905
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
image = np.asarray(Image.open(sys.argv[2]).convert("RGB"))
probabilities = session.run(["probabilities"], {"image": image[None]})[0][0]
for best in np.argsort(-probabilities)[:5]:
    print(f"{LABELS[best]} {probabilities[best]:.1%}")
