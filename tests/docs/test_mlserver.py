"""The example for MLServer, served over 127.0.0.1; skipped where MLServer is not installed."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nin_edge_runtime import Classifier

EXAMPLE = Path(__file__).parents[2] / "examples" / "mlserver"
START_SECONDS = 180.0  # its imports take a busy machine a minute
SAME = 1e-5
"""Largest difference of a probability: the server's ONNX Runtime may be another release."""

Post = Callable[[str, object], tuple[int, Any]]


def _program() -> str | None:
    named = os.environ.get("NIN_EDGE_MLSERVER")
    return named or shutil.which("mlserver", path=str(Path(sys.executable).parent))


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlserver") / "example"
    shutil.copytree(EXAMPLE, folder)
    shutil.copy(tiny_model, folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def post(folder: Path) -> Iterator[Post]:
    """Starts MLServer with the example and the tiny model, and sends JSON to it."""
    program = _program()
    if program is None:
        pytest.skip("MLServer is not installed; NIN_EDGE_MLSERVER may name it elsewhere")
    ports = []
    for _ in range(3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(str(free.getsockname()[1]))
    names = ("MLSERVER_HTTP_PORT", "MLSERVER_GRPC_PORT", "MLSERVER_METRICS_PORT")
    environment = os.environ | dict(zip(names, ports, strict=True))

    def request(path: str, body: object = None) -> tuple[int, Any]:
        with closing(http.client.HTTPConnection("127.0.0.1", int(ports[0]), timeout=60)) as client:
            method, headers = (
                ("GET" if body is None else "POST"),
                {"Content-Type": "application/json"},
            )
            client.request(method, path, None if body is None else json.dumps(body), headers)
            answer = client.getresponse()
            content = answer.read()
            return answer.status, json.loads(content) if content else None

    log = folder / "server.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [program, "start", folder], env=environment, stdout=output, stderr=output
        ) as server,
    ):
        try:
            deadline = time.monotonic() + START_SECONDS
            while True:
                try:
                    if request("/v2/models/photos/ready")[0] == 200:
                        break
                except OSError:
                    pass
                started = server.poll() is None and time.monotonic() < deadline
                assert started, log.read_text("utf-8", "replace")[-3000:]
                time.sleep(0.5)
            yield request
        finally:
            server.terminate()


def _images(*images: str, datatype: str = "BYTES") -> object:
    shape = [len(images), 1]
    return {
        "inputs": [{"name": "image", "shape": shape, "datatype": datatype, "data": list(images)}]
    }


@pytest.fixture(scope="module")
def encoded(photo: Path) -> str:
    return base64.b64encode(photo.read_bytes()).decode()


@pytest.mark.parametrize("count", [1, 64])
def test_answers_are_those_of_the_runtime(
    post: Post, encoded: str, photo: Path, tiny_model: Path, count: int
) -> None:
    expected = Classifier(tiny_model, provider="cpu", threads=1)(photo)
    status, answer = post("/v2/models/photos/infer", _images(*[encoded] * count))
    assert status == 200, answer
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["label"]["data"] == [expected.label] * count
    assert outputs["score"]["data"] == pytest.approx([expected.score] * count, abs=SAME)
    assert outputs["probabilities"]["shape"] == [count, 3]
    assert outputs["probabilities"]["data"][-3:] == pytest.approx(
        expected.probabilities.tolist(), abs=SAME
    )


def test_bad_requests_are_one_line_and_the_server_goes_on(post: Post, encoded: str) -> None:
    nothing = base64.b64encode(b"no image").decode()
    entry = {"name": "image", "shape": [1], "datatype": "BYTES"}
    for body, reason in (
        (_images(encoded, nothing), "image 1: image of 8 bytes: not an image"),
        (_images("not base64"), "image 0: image of 10 bytes: not an image"),
        (_images("A" * 100_000_000), "image 0: image of 75000000 bytes: not an image"),
        (
            {"inputs": [entry | {"datatype": "FP32", "data": [0.5]}]},
            "image is FP32, expected images as BYTES",
        ),
        ({"inputs": [entry | {"data": [0.5]}]}, "image has no images, expected base64"),
        ({"inputs": [entry | {"data": [["a"]]}]}, "image has no images, expected base64"),
        ({"inputs": [entry | {"data": []}]}, "image has no images, expected base64"),
        ({"inputs": []}, "the request has 0 inputs, expected one"),
    ):
        status, answer = post("/v2/models/photos/infer", body)
        assert status == 400, answer
        assert reason in answer["error"]
        assert "\n" not in answer["error"]
    assert post("/v2/models/photos/infer", _images(encoded))[0] == 200


def test_a_new_file_is_loaded_and_a_bad_one_is_refused(
    post: Post, encoded: str, folder: Path, tiny_model: Path
) -> None:
    model = folder / "model.onnx"
    before = post("/v2/models/photos/infer", _images(encoded))[1]["outputs"][0]["data"]
    model.write_bytes(tiny_model.read_bytes()[:-1])
    status, answer = post("/v2/repository/models/photos/load", {})
    assert status == 400
    assert answer["error"].startswith(f"{model}: ")
    assert post("/v2/models/photos/infer", _images(encoded))[1]["outputs"][0]["data"] == before
    shutil.copy(tiny_model.parent / "grey.fp32.onnx", model)
    assert post("/v2/repository/models/photos/load", {})[0] == 200
    after = post("/v2/models/photos/infer", _images(encoded))[1]["outputs"][0]["data"]
    assert after == [Classifier(model)(base64.b64decode(encoded)).label] != before
