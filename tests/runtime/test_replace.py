"""A model is replaced while threads use it, as docs/guides/serving.md says: by a copy, assigned."""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nin_edge_runtime import Classifier, ModelFileError
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.verify import replay

THREADS = 8
SWAPS = 60  # `python -m benchmarks.swap` has 1,000
PAUSE = 0.005  # seconds between a thread's calls: without it, the swaps wait for the CPU
PICTURES = [golden_image(seed, 20, 24) for seed in range(4)]


class Served:
    """What the guide tells a service to write."""

    def __init__(self, path: Path) -> None:
        self.classify = Classifier(path, provider="cpu", threads=1)

    def update(self) -> None:
        fresh = copy.copy(self.classify)
        replay(fresh)
        self.classify = fresh


def put(data: bytes, path: Path) -> None:
    """Replace a file as a careful updater does."""
    part = path.with_suffix(".part")
    part.write_bytes(data)
    part.replace(path)


@pytest.fixture
def versions(tiny_model: Path, tiny_bytes: bytes) -> list[bytes]:
    """Two models whose predictions for every picture differ, by label and by probabilities."""
    return [tiny_bytes, (tiny_model.parent / "grey.fp32.onnx").read_bytes()]


def test_no_answer_is_wrong_or_lost_while_models_are_replaced(
    tmp_path: Path, versions: list[bytes]
) -> None:
    path = tmp_path / "model.onnx"
    put(versions[0], path)
    expected = [
        [(each.label, each.probabilities) for each in Classifier(data, threads=1).batch(PICTURES)]
        for data in versions
    ]
    assert all(a[0] != b[0] for a, b in zip(*expected, strict=True))
    served, stop = Served(path), threading.Event()
    begun, done = [0], [0]  # swaps
    asked, answered = [0] * THREADS, [Counter[int]() for _ in range(THREADS)]
    errors: list[Exception] = []

    def ask(number: int) -> None:
        picture = asked[number] % len(PICTURES)
        asked[number] += 1
        before = done[0]
        prediction = served.classify(PICTURES[picture])
        during = begun[0]
        possible = {before % 2} if during == before else {0, 1}
        for version in possible:
            label, probabilities = expected[version][picture]
            same = np.array_equal(prediction.probabilities, probabilities)
            answered[number][version] += same and prediction.label == label

    def work(number: int) -> None:
        try:
            while not stop.wait(PAUSE):
                ask(number)
        except Exception as error:  # it would end the thread with no more than a warning
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for swap in range(1, SWAPS + 1):
        put(versions[swap % 2], path)
        begun[0] = swap
        served.update()
        done[0] = swap
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [counts.total() for counts in answered] == asked
    assert min(asked) > SWAPS / 10
    assert all(sum(counts[version] for counts in answered) > SWAPS for version in (0, 1))
    assert served.classify(PICTURES[0]).label == expected[SWAPS % 2][0][0]


def _truncated(data: bytes, forge: Callable[..., bytes]) -> bytes:
    return data[: len(data) // 2]


def _one_bit(data: bytes, forge: Callable[..., bytes]) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _newer(data: bytes, forge: Callable[..., bytes]) -> bytes:
    return forge(data, {"format_version": "99"})


def _broken_graph(data: bytes, forge: Callable[..., bytes]) -> bytes:
    return forge(data, graph=b"")


@pytest.mark.parametrize("damage", [_truncated, _one_bit, _newer, _broken_graph, None])
def test_bad_file_is_one_error_and_the_old_model_stays(
    tmp_path: Path,
    versions: list[bytes],
    forge: Callable[..., bytes],
    damage: Callable[[bytes, Callable[..., bytes]], bytes] | None,
) -> None:
    path = tmp_path / "model.onnx"
    put(versions[0], path)
    served = Served(path)
    before = served.classify(PICTURES[0])
    if damage is None:
        path.unlink()
    else:
        put(damage(versions[1], forge), path)
    with pytest.raises(ModelFileError) as caught:
        served.update()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    after = served.classify(PICTURES[0])
    assert (after.label, after.score) == (before.label, before.score)
    put(versions[1], path)
    served.update()
    assert served.classify(PICTURES[0]).label != before.label


def test_a_stream_keeps_the_model_that_it_started_with(
    tmp_path: Path, versions: list[bytes]
) -> None:
    path = tmp_path / "model.onnx"
    put(versions[0], path)
    served = Served(path)
    stream = served.classify.stream([PICTURES[0]] * 3)
    labels = [next(stream).label]  # type: ignore[union-attr]
    put(versions[1], path)
    served.update()
    labels += [each.label for each in stream]  # type: ignore[union-attr]
    assert len(set(labels)) == 1
    assert served.classify(PICTURES[0]).label != labels[0]
