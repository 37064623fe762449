"""A model session: graphs that were never sealed, threads, and CUDA that starts but cannot run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nin_edge_runtime import Classifier, ModelFileError, NinEdgeError, ProviderError, read_model
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.providers import create_session
from nin_edge_runtime.session import ModelSession


@pytest.fixture(scope="module")
def session(tiny_model: Path) -> ModelSession:
    data, info = read_model(tiny_model)
    return ModelSession(data, info, "tiny", provider="cpu", threads=1)


def test_graph_that_was_never_sealed_is_run(
    tiny_model: Path, classify: Classifier, forge: Callable[..., bytes]
) -> None:
    data, info = read_model(tiny_model)
    bare = forge(data, dict.fromkeys(("sha256", "labels", "golden", "certificate")))
    with pytest.raises(ModelFileError):
        read_model(bare)
    session = ModelSession(bare, info, "candidate", provider="cpu", threads=1)
    assert (session.name, session.provider, session.fixed_batch) == ("candidate", "cpu", None)
    image = golden_image(1, 30, 20)
    pixels = info.preprocessing.resize(image)[np.newaxis]
    probabilities, maps = session.run(pixels)
    np.testing.assert_array_equal(probabilities[0], classify(image).probabilities)
    assert maps.shape == (1, 3, 4, 4)
    np.testing.assert_array_equal(
        session.graph(image[np.newaxis])[0], classify.graph(image[np.newaxis]).probabilities
    )


@pytest.mark.parametrize("name", ["format-1", "normalize", "none", "grey", "grey-none"])
def test_run_takes_what_the_classifier_feeds_it(tiny_model: Path, name: str) -> None:
    data, info = read_model(tiny_model.with_name(f"{name}.fp32.onnx"))
    session = ModelSession(data, info, name, provider="cpu", threads=1)
    images = [golden_image(seed, 20 + seed, 30) for seed in range(3)]
    pixels = np.stack([info.preprocessing.resize(image) for image in images])
    predictions = Classifier(data, provider="cpu", threads=1).batch(images)
    np.testing.assert_array_equal(
        session.run(pixels)[0], [prediction.probabilities for prediction in predictions]
    )


def test_outputs_that_do_not_fit_the_labels_are_refused(tiny_model: Path) -> None:
    data, info = read_model(tiny_model)
    with pytest.raises(ModelFileError, match=r"m: outputs of shapes \(1, 3\) .* expected \(1, 2\)"):
        ModelSession(data, replace(info, labels=("a", "b")), "m", provider="cpu", threads=1)


def test_graph_that_fails_is_named(session: ModelSession) -> None:
    with pytest.raises(NinEdgeError, match="tiny: fails at an image of shape"):
        session.run(np.zeros((1, 16, 16, 4), np.uint8)[..., :2])


NO_PROBABILITIES = {
    "percent": [204.8, -3.0, 0.0],
    "negative": [1.5, -0.5, 0.0],
    "infinite": [float("inf"), 0.0, 0.0],
    "NaN first": [float("nan"), 0.5, 0.5],
    "NaN last": [0.5, 0.5, float("nan")],
    "too much": [0.5, 0.5, 0.02],
    "too little": [0.5, 0.48, 0.0],
    "nothing": [0.0, 0.0, 0.0],
}


@pytest.mark.parametrize("row", NO_PROBABILITIES.values(), ids=NO_PROBABILITIES)
def test_outputs_that_are_no_probabilities_are_never_answered(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, row: list[float]
) -> None:
    classify = Classifier(tiny_model, provider="cpu", threads=1)
    good = np.array([[0.2, 0.3, 0.505]], np.float32)  # int8 may miss 1 by a little
    maps = np.zeros((2, 3, 4, 4), np.float32)
    outputs = [np.concatenate([good, good]), maps]
    fake = SimpleNamespace(run=lambda *_: outputs)
    monkeypatch.setattr(classify._session, "_session", fake)
    image = golden_image(0, 20, 30)
    assert len(classify.batch([image, image])) == 2
    outputs[0] = np.concatenate([good, np.array([row], np.float32)])
    for call in (
        lambda: classify.batch([image, image]),
        lambda: classify.graph(np.stack([image, image])),
    ):
        with pytest.raises(ModelFileError, match=r"outputs (NaN|.* as the smallest probability)"):
            call()
    with pytest.raises(ModelFileError, match="outputs"):
        list(classify.stream([image, image], batch_size=2))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_class_maps_that_are_not_finite_are_refused_when_the_model_starts(
    session: ModelSession, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    outputs = [np.full((1, 3), 1 / 3, np.float32), np.full((1, 3, 4, 4), value, np.float32)]
    monkeypatch.setattr(session, "_session", SimpleNamespace(run=lambda *_: outputs))
    with pytest.raises(ModelFileError, match="class maps with NaN or infinity"):
        session._warm_up()


class TestSettings:
    @pytest.mark.parametrize("threads", [0, -2, 1025, 2**31, 1.5, "2"])
    def test_threads_are_a_whole_number_in_range(self, tiny_model: Path, threads: Any) -> None:
        with pytest.raises(ValueError, match=f"threads is {threads!r}: .* 1 to 1024"):
            Classifier(tiny_model, threads=threads)

    @pytest.mark.parametrize("variable", [None, "cuda"])
    def test_cuda_that_starts_but_cannot_run_is_not_the_models_fault(
        self,
        tiny_model: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        variable: str | None,
    ) -> None:
        class Broken:
            def get_inputs(self) -> list[Any]:
                return [SimpleNamespace(shape=["N", "H", "W", 3])]

            def run(self, *_: Any) -> None:
                raise RuntimeError("CUDNN_STATUS_NOT_INITIALIZED")

        def create(*given: Any, provider: str, **options: Any) -> tuple[Any, str]:
            if provider == "cpu":
                return create_session(*given, provider=provider, **options)
            return Broken(), "cuda"

        monkeypatch.setattr("nin_edge_runtime.session.create_session", create)
        if variable:
            monkeypatch.setenv("NIN_EDGE_PROVIDER", variable)
        else:
            monkeypatch.delenv("NIN_EDGE_PROVIDER", raising=False)
        with pytest.raises(ProviderError, match="CUDNN_STATUS_NOT_INITIALIZED"):
            Classifier(tiny_model, provider="cuda", threads=1)
        if variable:
            with pytest.raises(ProviderError):
                Classifier(tiny_model, threads=1)
            return
        classify = Classifier(tiny_model, threads=1)
        assert classify.provider == "cpu"
        assert classify(golden_image(0, 20, 30)).label
        assert [record.levelname for record in caplog.records] == ["WARNING"]
