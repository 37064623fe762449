"""The servers of docs/guides/serving.md, and clients that load them.

`NIN_EDGE_MLSERVER` and `NIN_EDGE_TRITONSERVER` name their programs (CONTRIBUTING.md).
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks._result import ROOT, Row
from nin_edge_export import ExportedModel
from nin_edge_export.triton import write_repository

PROGRAMS: Final = {"MLServer": "NIN_EDGE_MLSERVER", "Triton": "NIN_EDGE_TRITONSERVER"}
"""The variable that names the program of each server."""

_START_SECONDS: Final = 300.0  # their imports take a busy machine a minute
_ANSWER_SECONDS: Final = 60.0

Ask = Callable[[], str]
"""Has an image classified, and gives its label."""


@dataclass(frozen=True)
class Request:
    """A request that is sent again and again."""

    port: int
    """The server's port at 127.0.0.1."""
    path: str
    """The model's address."""
    body: bytes
    """The request's body."""
    headers: Mapping[str, str]
    """Its headers."""

    @contextmanager
    def connected(self) -> Iterator[Ask]:
        """Keep a connection, as a client does."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER_SECONDS)

        def ask() -> str:
            client.request("POST", f"{self.path}/infer", self.body, dict(self.headers))
            answer = client.getresponse()
            content = answer.read()
            if answer.status != 200:
                raise OSError(f"status {answer.status}: {content[:200]!r}")
            outputs = {output["name"]: output for output in json.loads(content)["outputs"]}
            return str(outputs["label"]["data"][0])

        try:
            yield ask
        finally:
            client.close()


def in_json(port: int, path: str, image: bytes) -> Request:
    """A request with the image in base64."""
    entry = {"name": "image", "shape": [1, 1], "datatype": "BYTES"}
    data = [base64.b64encode(image).decode()]
    body = json.dumps({"inputs": [{**entry, "data": data}]}).encode()
    return Request(port, path, body, {"Content-Type": "application/json"})


def in_binary(port: int, path: str, image: bytes) -> Request:
    """A request with the image by the protocol's binary extension."""
    data = struct.pack("<I", len(image)) + image
    entry = {"name": "image", "shape": [1, 1], "datatype": "BYTES"}
    size = {"parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [{**entry, **size}]}).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    return Request(port, path, head + data, headers)


@contextmanager
def mlserver(program: str, model: ExportedModel, folder: Path) -> Iterator[tuple[int, str]]:
    """Start the example for MLServer; gives its port and the model's path."""
    shutil.copytree(ROOT / "examples" / "mlserver", folder)
    (folder / "model.onnx").write_bytes(model.data)
    ports = [_free_port() for _ in range(3)]
    names = ("MLSERVER_HTTP_PORT", "MLSERVER_GRPC_PORT", "MLSERVER_METRICS_PORT")
    environment = dict(zip(names, map(str, ports), strict=True))
    path = "/v2/models/photos"
    with _started([program, "start", str(folder)], environment, ports[0], path, folder):
        yield ports[0], path


@contextmanager
def triton(program: str, model: ExportedModel, folder: Path) -> Iterator[tuple[int, str]]:
    """Start Triton with a repository of ours; gives its port and the Python model's path."""
    write_repository([model], "photos", folder)
    name, port = "photos-int8-python", _free_port()
    command = [
        *(program, "--model-repository", str(folder), "--http-address", "127.0.0.1"),
        *("--http-port", str(port), "--allow-grpc", "false", "--allow-metrics", "false"),
        *("--model-control-mode", "explicit", "--load-model", name),
    ]
    path = f"/v2/models/{name}"
    with _started(command, {}, port, path, folder):
        yield port, path


@contextmanager
def _started(
    command: list[str], environment: Mapping[str, str], port: int, path: str, folder: Path
) -> Iterator[None]:
    log = folder / "server.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, env=os.environ | environment, stdout=output, stderr=output
        ) as server,
    ):
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not _is_ready(port, path):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(log.read_text("utf-8", "replace")[-3000:])
                time.sleep(0.2)
            yield
        finally:
            server.terminate()


def _is_ready(port: int, path: str) -> bool:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        client.request("GET", f"{path}/ready")
        return client.getresponse().status == 200
    except OSError:
        return False
    finally:
        client.close()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def load(
    connected: Callable[[], AbstractContextManager[Ask]],
    expected: str,
    clients: int,
    seconds: float,
) -> Row:
    """Ask without pauses, by several clients at once.

    Args:
        connected: a context manager for each client that gives an `Ask`.
        expected: the label that every answer must have.
        clients: number of clients.
        seconds: how long.

    Returns:
        Requests/s, latencies of the requests, and how many had another label or none.
    """
    times: list[list[float]] = [[] for _ in range(clients)]
    wrong, lost = [0] * clients, [0] * clients
    ready = threading.Barrier(clients + 1)
    end = [float("inf")]

    def work(number: int) -> None:
        with connected() as ask:
            try:
                ask()  # connected and warm
                ready.wait()
            except BaseException:
                ready.abort()  # or the others would wait
                raise
            while (started := time.perf_counter()) < end[0]:
                try:
                    wrong[number] += ask() != expected
                except (OSError, http.client.HTTPException):
                    lost[number] += 1
                    continue
                times[number].append(time.perf_counter() - started)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    ready.wait()
    begun = time.perf_counter()
    end[0] = begun + seconds
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begun
    every = np.concatenate([np.array(own) for own in times])
    return {
        "clients": clients,
        "seconds": seconds,
        "requests": len(every),
        "requests_per_second": len(every) / took,
        "p50_ms": 1e3 * float(np.percentile(every, 50)),
        "p99_ms": 1e3 * float(np.percentile(every, 99)),
        "wrong": sum(wrong),
        "lost": sum(lost),
    }
