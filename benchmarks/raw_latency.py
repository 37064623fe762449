"""How do model files run under ONNX Runtime alone, of any version? Needs it and NumPy, no more.

    OLD_ENVIRONMENT/bin/python benchmarks/raw_latency.py demo/nin-cifar10.{fp32,fp16,int8}.onnx

The first file is what the others are compared with; all take a 32 x 32 image.
"""

import statistics
import sys
import time

import numpy as np
import onnxruntime

ROUNDS, CALLS = 60, 5


def main() -> None:
    """Measure and print."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    sessions = {
        path: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for path in sys.argv[1:]
    }
    seconds: dict[str, list[float]] = {path: [] for path in sessions}
    for _ in range(ROUNDS):
        for path, session in sessions.items():
            started = time.perf_counter()
            for _ in range(CALLS):
                session.run(None, {"image": image})
            seconds[path].append((time.perf_counter() - started) / CALLS)
    base = seconds[sys.argv[1]]
    for path, values in seconds.items():
        ratio = statistics.median(own / first for own, first in zip(values, base, strict=True))
        median = 1e3 * statistics.median(values)
        print(f"{onnxruntime.__version__} {path} {median:.3f} ms, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
