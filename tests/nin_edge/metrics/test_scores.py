from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from nin_edge.metrics import (
    BINS,
    THRESHOLDS,
    Scores,
    Tally,
    Threshold,
    at_thresholds,
    expected_calibration_error,
    softmax,
    top1,
)

ROUNDING = 1e-12  # of double precision


def test_top1_is_the_share_of_right_rows() -> None:
    scores = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 9.0], [1.0, 0.0]])
    assert top1(scores, np.array([0, 1, 0, 1])) == 0.5


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_equals_a_plain_loop(rng: np.random.Generator, bins: int) -> None:
    probabilities = softmax(3 * rng.normal(size=(500, 4)))
    probabilities[0] = [0, 1, 0, 0]  # full confidence belongs to the last bin
    targets = rng.integers(0, 4, size=500)
    error = 0.0
    for bin_ in range(bins):
        rows = [
            (max(row), int(np.argmax(row)) == target)
            for row, target in zip(probabilities, targets, strict=True)
            if min(int(max(row) * bins), bins - 1) == bin_
        ]
        if rows:
            confidence, accuracy = np.mean(rows, axis=0)
            error += abs(accuracy - confidence) * len(rows) / 500
    assert expected_calibration_error(probabilities, targets, bins) == pytest.approx(
        error, abs=ROUNDING
    )


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not() -> None:
    sure = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert expected_calibration_error(sure, np.array([0, 0])) == 0
    assert expected_calibration_error(sure, np.array([1, 1])) == 1


# --- the tally ------------------------------------------------------------------------------------


def answers(rng: np.random.Generator, classes: int) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Probabilities of 400 images and their classes; the last class has no image."""
    return softmax(3 * rng.normal(size=(400, classes))), rng.integers(0, classes - 1, size=400)


def tallied(
    probabilities: NDArray[np.floating], targets: NDArray[np.intp], batch: int = 1000
) -> Scores:
    tally = Tally([f"class {index}" for index in range(probabilities.shape[1])])
    for start in range(0, len(targets), batch):
        tally.add(probabilities[start : start + batch], targets[start : start + batch])
    return tally.scores()


@pytest.mark.parametrize("batch", [1, 64, 400])
@pytest.mark.parametrize("classes", [2, 5, 6, 9])
def test_tally_equals_plain_loops(rng: np.random.Generator, classes: int, batch: int) -> None:
    probabilities, targets = answers(rng, classes)
    scores = tallied(probabilities, targets, batch)
    pairs = [
        (int(t), max(range(classes), key=p.__getitem__))
        for p, t in zip(probabilities, targets, strict=True)
    ]

    assert scores.labels == tuple(f"class {index}" for index in range(classes))
    assert scores.count == scores.support.sum() == 400
    assert scores.top1 == pytest.approx(sum(t == a for t, a in pairs) / 400, abs=ROUNDING)
    for row in range(classes):
        for column in range(classes):
            assert scores.confusion[row, column] == pairs.count((row, column))
    for index in range(classes):
        right = pairs.count((index, index))
        asked = sum(t == index for t, _ in pairs)
        answered = sum(a == index for _, a in pairs)
        assert scores.support[index] == asked
        for share, part, whole in (
            (scores.precision[index], right, answered),
            (scores.recall[index], right, asked),
            (scores.f1[index], 2 * right, asked + answered),
        ):
            expected = part / whole if whole else float("nan")
            assert share == pytest.approx(expected, abs=ROUNDING, nan_ok=True)
    assert np.isnan(scores.recall[-1])  # it has no image
    if classes > 5:
        hits = sum(
            t in sorted(range(classes), key=lambda k: -p[k])[:5]
            for p, t in zip(probabilities, targets, strict=True)
        )
        assert scores.top5 == pytest.approx(hits / 400, abs=ROUNDING)
    else:
        assert scores.top5 is None


@pytest.mark.parametrize("batch", [1, 64, 400])
def test_tally_agrees_with_the_functions(rng: np.random.Generator, batch: int) -> None:
    probabilities, targets = answers(rng, 7)
    scores = tallied(probabilities, targets, batch)
    assert scores.top1 == top1(probabilities, targets)
    expected = expected_calibration_error(probabilities, targets)
    assert scores.ece == pytest.approx(expected, abs=ROUNDING)


def test_calibration_curve_equals_a_plain_loop(rng: np.random.Generator) -> None:
    probabilities, targets = answers(rng, 3)
    curve = tallied(probabilities, targets, 64).calibration
    assert curve.count.shape == curve.confidence.shape == curve.accuracy.shape == (BINS,)
    for place in range(BINS):
        inside = [
            (max(row), int(np.argmax(row)) == target)
            for row, target in zip(probabilities, targets, strict=True)
            if min(int(max(row) * BINS), BINS - 1) == place
        ]
        assert curve.count[place] == len(inside)
        mean = np.mean(inside, axis=0) if inside else (np.nan, np.nan)
        np.testing.assert_allclose(
            (curve.confidence[place], curve.accuracy[place]), mean, rtol=0, atol=ROUNDING
        )


@pytest.mark.parametrize("batch", [1, 64, 400])
def test_thresholds_equal_a_plain_loop(rng: np.random.Generator, batch: int) -> None:
    probabilities, targets = answers(rng, 5)
    found = tallied(probabilities, targets, batch).thresholds
    assert found == at_thresholds(probabilities, targets)
    assert [threshold.min_score for threshold in found] == list(THRESHOLDS)
    for threshold in found:
        answered = [
            int(np.argmax(row)) == target
            for row, target in zip(probabilities, targets, strict=True)
            if max(row) >= threshold.min_score
        ]
        assert 0 < len(answered) < 400  # else the comparison says little
        assert threshold.coverage == pytest.approx(len(answered) / 400, abs=ROUNDING)
        assert threshold.top1 == pytest.approx(np.mean(answered), abs=ROUNDING)


def test_no_answer_has_no_accuracy() -> None:
    found = at_thresholds(np.array([[0.6, 0.4], [0.4, 0.6]]), np.array([0, 0]))
    assert found[0] == Threshold(0.5, 1.0, 0.5)
    assert found[1:] == tuple(Threshold(value, 0.0, None) for value in THRESHOLDS[1:])


@pytest.mark.parametrize(("score", "coverage"), [(0.8, 1.0), (0.9, 0.0)])
def test_scores_are_compared_as_a_classifier_does(score: float, coverage: float) -> None:
    # In single precision 0.8 is a little more than the number 0.8, and 0.9 a little less.
    found = at_thresholds(np.float32([[score, 1 - score]]), np.array([0]))
    assert {row.min_score: row.coverage for row in found}[score] == coverage


def test_equal_probabilities_go_to_the_first_class() -> None:
    scores = tallied(np.full((7, 7), 1 / 7), np.arange(7))
    assert scores.confusion[:, 0].tolist() == [1] * 7
    assert scores.top5 == pytest.approx(5 / 7)


def test_tally_takes_the_float32_of_a_model(rng: np.random.Generator) -> None:
    probabilities, targets = answers(rng, 4)
    single = tallied(probabilities.astype(np.float32), targets)
    double = tallied(probabilities, targets)
    np.testing.assert_array_equal(single.confusion, double.confusion)
    assert single.ece == pytest.approx(double.ece, abs=1e-6)


def test_memory_of_a_tally_is_that_of_its_confusion_matrix(rng: np.random.Generator) -> None:
    tally = Tally("abcd")

    def arrays() -> list[tuple[int, ...]]:
        return [value.shape for value in vars(tally).values() if isinstance(value, np.ndarray)]

    for _ in range(3):
        tally.add(*answers(rng, 4))
        assert sorted(arrays()) == [(2, len(THRESHOLDS)), (3, BINS), (4, 4)]
    others = [value for value in vars(tally).values() if not isinstance(value, np.ndarray)]
    assert all(isinstance(value, int) or value == tuple("abcd") for value in others)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -0.5, 3.0])
def test_what_is_no_probability_is_refused(wrong: float) -> None:
    tally = Tally("ab")
    with pytest.raises(ValueError, match=f"a probability of {wrong}, expected 0 to 1"):
        tally.add(np.array([[0.5, 0.5], [wrong, 0.5]]), np.array([0, 1]))


def test_nothing_has_no_scores() -> None:
    with pytest.raises(ValueError, match="no predictions to score"):
        Tally("ab").scores()


def test_scores_do_not_change_with_the_tally() -> None:
    tally = Tally("ab")
    tally.add(np.array([[1.0, 0.0]]), np.array([0]))
    scores = tally.scores()
    tally.add(np.array([[1.0, 0.0]]), np.array([1]))
    assert scores.confusion.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("classes", [2, 7])
def test_scores_are_strict_json(rng: np.random.Generator, classes: int) -> None:
    scores = tallied(*answers(rng, classes))
    figures = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    assert figures["classes"][-1]["recall"] is None  # the last class has no images
    assert [entry["label"] for entry in figures["classes"]] == list(scores.labels)
    assert figures["confusion"] == scores.confusion.tolist()
