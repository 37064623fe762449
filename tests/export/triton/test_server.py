"""The repository in a real Triton, over its V2 protocol; skipped where no server is named.

`NIN_EDGE_TRITONSERVER` names a program that runs `tritonserver` with the arguments it gets, and
whose Python backend finds nin_edge_runtime (CONTRIBUTING.md has one).
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nin_edge_export import ExportedModel
from nin_edge_export.triton import write_repository
from nin_edge_runtime import Classifier

NAME = "tiny-fp32-python"
CLIENTS = 32
SECONDS = 60.0
START_SECONDS = 60.0
SAME = 1e-5
"""Largest difference of a probability: the server's ONNX Runtime may be another release."""


class Client:
    """A connection to the server."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def close(self) -> None:
        self._connection.close()

    def post(self, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request("POST", path, body, sent)
        answer = self._connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content else None

    def infer(self, images: Sequence[bytes], name: str = NAME) -> tuple[int, Any]:
        """Send images by the binary extension of the protocol; JSON has no bytes."""
        data = b"".join(struct.pack("<I", len(image)) + image for image in images)
        entry = {"name": "image", "shape": [len(images), 1], "datatype": "BYTES"}
        head = json.dumps({"inputs": [entry | {"parameters": {"binary_data_size": len(data)}}]})
        length = str(len(head))
        return self.post(
            f"/v2/models/{name}/infer", head.encode() + data, Inference_Header_Content_Length=length
        )


@pytest.fixture(scope="module")
def repository(exported: ExportedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("repository")
    write_repository([exported], "tiny", repository)
    return repository


@pytest.fixture(scope="module")
def port(repository: Path) -> Iterator[int]:
    """Starts Triton, and gives its port."""
    program = os.environ.get("NIN_EDGE_TRITONSERVER")
    if program is None:
        pytest.skip("NIN_EDGE_TRITONSERVER names no Triton to test the repository with")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        (repository / "server.log").open("wb") as log,
        subprocess.Popen(
            [
                *(program, "--model-repository", repository, "--http-address", "127.0.0.1"),
                *("--http-port", str(port), "--allow-grpc", "false", "--allow-metrics", "false"),
                *("--model-control-mode", "explicit", "--load-model", NAME),
            ],
            stdout=log,
            stderr=log,
        ) as server,
    ):
        try:
            _wait(port, server, repository / "server.log")
            yield port
        finally:
            server.terminate()


@pytest.fixture
def connect(port: int) -> Iterator[Callable[[], Client]]:
    """Opens connections to the server."""
    clients: list[Client] = []

    def connect() -> Client:
        clients.append(Client(port))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def _wait(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", f"/v2/models/{NAME}/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.2)
    raise AssertionError(log.read_text("utf-8", "replace")[-3000:])


@pytest.fixture(scope="module")
def expected(tiny_model: Path, photo: Path) -> tuple[str, np.ndarray]:
    prediction = Classifier(tiny_model, provider="cpu", threads=1)(photo.read_bytes())
    return prediction.label, prediction.probabilities


@pytest.mark.parametrize("count", [1, 64])
def test_answers_are_those_of_the_runtime(
    connect: Callable[[], Client], photo: Path, expected: tuple[str, np.ndarray], count: int
) -> None:
    status, answer = connect().infer([photo.read_bytes()] * count)
    assert status == 200, answer
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["label"]["data"] == [expected[0]] * count
    rows = np.array(outputs["probabilities"]["data"]).reshape(outputs["probabilities"]["shape"])
    np.testing.assert_allclose(rows, np.tile(expected[1], (count, 1)), atol=SAME)


def test_classification_extension_has_the_labels(
    connect: Callable[[], Client], photo: Path, expected: tuple[str, np.ndarray]
) -> None:
    data = photo.read_bytes()
    request = {
        "inputs": [
            {
                "name": "image",
                "shape": [1, 1],
                "datatype": "BYTES",
                "parameters": {"binary_data_size": len(data) + 4},
            }
        ],
        "outputs": [{"name": "probabilities", "parameters": {"classification": 1}}],
    }
    head = json.dumps(request)
    body = head.encode() + struct.pack("<I", len(data)) + data
    status, answer = connect().post(
        f"/v2/models/{NAME}/infer", body, Inference_Header_Content_Length=str(len(head))
    )
    assert status == 200, answer
    score, _, label = answer["outputs"][0]["data"][0].split(":")
    assert (label, float(score)) == (expected[0], pytest.approx(expected[1].max(), abs=1e-4))


def test_bad_requests_are_one_line_and_the_server_goes_on(
    connect: Callable[[], Client], photo: Path
) -> None:
    client, data = connect(), photo.read_bytes()
    floats = {"inputs": [{"name": "image", "shape": [1, 1], "datatype": "FP32", "data": [0.5]}]}
    words = {"inputs": [{"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": ["cat"]}]}
    path = f"/v2/models/{NAME}/infer"
    for (status, answer), reason in (
        (client.infer([b"no image"]), "image 0: "),
        (client.infer([data, b""]), "image 1: "),
        (client.infer([bytes(100_000_000)]), "image 0: image of 100000000 bytes"),
        (client.infer([data] * 65), "batch-size must be <= 64"),
        (client.post(path, json.dumps(words).encode()), "image 0: image of 3 bytes"),  # JSON
        (client.post(path, json.dumps(floats).encode()), "data-type is 'FP32'"),
    ):
        assert status == 400, answer
        assert reason in answer["error"]
        assert "\n" not in answer["error"]
    assert client.infer([data])[0] == 200


def test_clients_lose_nothing_while_new_versions_come(
    connect: Callable[[], Client],
    repository: Path,
    exported: ExportedModel,
    photo: Path,
    expected: tuple[str, np.ndarray],
) -> None:
    data, stop = photo.read_bytes(), threading.Event()
    sent, right = [0] * CLIENTS, [0] * CLIENTS
    versions: set[str] = set()

    def work(number: int) -> None:
        client = connect()
        while not stop.is_set():
            sent[number] += 1
            status, answer = client.infer([data])
            versions.add(answer.get("model_version", ""))
            right[number] += status == 200 and answer["outputs"][0]["data"] == [expected[0]]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    started = time.monotonic()
    for _ in range(5):
        time.sleep(SECONDS / 5)
        write_repository([exported], "tiny", repository)
        assert connect().post(f"/v2/repository/models/{NAME}/load", b"{}")[0] == 200
    took = time.monotonic() - started
    stop.set()
    for thread in threads:
        thread.join()
    assert right == sent
    assert min(sent) > 0
    assert versions >= {"1", "2", "5"}
    assert sum(sent) > took  # a request a second, at the least
