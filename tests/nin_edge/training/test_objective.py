from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from nin_edge import predict
from nin_edge.checkpoint import Checkpoint, DataSource
from nin_edge.data import Dataset, open_dataset
from nin_edge.metrics import softmax
from nin_edge.network import NetworkConfig, NiN
from nin_edge.training.errors import TrainingError, TrainingStoppedError
from nin_edge.training.finetune import Pretrained
from nin_edge.training.objective import Objective, distillation_loss
from nin_edge.training.progress import Progress
from nin_edge.training.recipe import Recipe
from nin_edge.training.teachers import Teachers
from nin_edge_runtime import ModelFileError
from nin_edge_runtime.preprocessing import Preprocessing

LABELS = ("a", "b", "c")
LOGIT_TOLERANCE = 1e-5
GPU_TOLERANCE = 1e-3  # between its sums and a CPU's

Train = Callable[..., Checkpoint]


def initial(*, seed: int = 1, size: int = 16, **changes: Any) -> Pretrained:
    config = NetworkConfig.from_preset("nin-bn", classes=3, size=size, width=0.01, **changes)
    torch.manual_seed(seed)
    grey = (0.4,) * config.channels
    return Pretrained(
        "weights",
        Checkpoint(
            config=config,
            weights=NiN(config).state_dict(),
            labels=LABELS,
            preprocessing=Preprocessing(config.size, config.channels, grey, grey),
            data=DataSource("none"),
        ),
    )


def probabilities(one: Pretrained, pixels: NDArray[np.uint8]) -> Tensor:
    inputs = torch.from_numpy(one.checkpoint.preprocessing.normalize(pixels))
    with torch.no_grad():
        return one.checkpoint.network()(inputs).softmax(1)


@pytest.mark.parametrize("count", [1, 3])
def test_teachers_give_the_mean_of_their_probabilities(
    rng: np.random.Generator, count: int
) -> None:
    several = [initial(seed=seed) for seed in range(count)]
    pixels = rng.integers(0, 256, (70, 16, 16, 3), dtype=np.uint8)  # more than one takes together
    found = Teachers(several, LABELS, 3)(torch.from_numpy(pixels))
    expected = torch.stack([probabilities(one, pixels) for one in several]).mean(0)
    torch.testing.assert_close(found.exp(), expected, rtol=0, atol=LOGIT_TOLERANCE)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method", "ignore:The CUDA Graph is empty")
@pytest.mark.gpu
def test_compiled_teachers_of_one_shape_are_not_mixed_up(
    gpu: torch.device, rng: np.random.Generator
) -> None:
    several = [initial(seed=seed) for seed in range(3)]
    teacher = Teachers(several, LABELS, 3, gpu, compiled=True)
    for _ in range(4):  # its CUDA graphs are recorded meanwhile
        pixels = torch.from_numpy(rng.integers(0, 256, (70, 16, 16, 3), dtype=np.uint8))
        found = teacher(pixels.to(gpu)).exp().cpu()
        expected = Teachers(several, LABELS, 3)(pixels).exp()
        torch.testing.assert_close(found, expected, rtol=0, atol=GPU_TOLERANCE)


def test_each_teacher_sees_images_at_its_own_size() -> None:
    flat = np.full((1, 40, 40, 3), 90, np.uint8)  # of one colour, whatever its size
    found = Teachers([initial(seed=1), initial(seed=2, size=24)], LABELS, 3)(torch.from_numpy(flat))
    own = [
        probabilities(initial(seed=1), flat[:, :16, :16]),
        probabilities(initial(seed=2, size=24), flat[:, :24, :24]),
    ]
    torch.testing.assert_close(found.exp(), torch.stack(own).mean(0), rtol=0, atol=LOGIT_TOLERANCE)


@pytest.mark.parametrize("before", [0, 1], ids=["the first", "the second"])
@pytest.mark.parametrize(
    ("labels", "channels", "words"),
    [
        (("a", "b", "x"), 3, "of the classes a, b, x, expected those of the data in their order"),
        (LABELS, 1, "with 1 channels, expected the student's 3"),
    ],
)
def test_a_teacher_of_something_else_is_refused(
    labels: tuple[str, ...], channels: int, words: str, before: int
) -> None:
    odd = replace(initial(channels=channels).checkpoint, labels=labels)
    with pytest.raises(ModelFileError, match=f"odd: a teacher {words}"):
        Teachers([*[initial()] * before, Pretrained("odd", odd)], LABELS, 3)


def test_distillation_is_the_divergence_of_the_answers() -> None:
    taught = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    p = taught.softmax(1)
    assert distillation_loss(taught + 5, p.log()).item() == pytest.approx(0, abs=LOGIT_TOLERANCE)
    other = torch.tensor([[3.0, 2.0, 1.0], [0.0, 1.0, 0.0]])
    expected = (p * (p / other.softmax(1)).log()).sum(1).mean()
    assert distillation_loss(other, p.log()).item() == pytest.approx(expected.item())


def test_the_loss_is_between_that_of_the_labels_and_the_teachers() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(8, 3), torch.arange(8) % 3
    taught = torch.randn(8, 3).log_softmax(1)

    def loss(weight: float, taught: Tensor | None = taught) -> float:
        recipe = Recipe(label_smoothing=0.0, distill_weight=weight)
        return Objective(recipe)(logits, targets, taught).item()

    labels = torch.nn.functional.cross_entropy(logits, targets).item()
    assert loss(0.0) == loss(0.7, None) == pytest.approx(labels)
    assert loss(1.0) == pytest.approx(distillation_loss(logits, taught).item())
    assert loss(0.25) == pytest.approx(0.75 * loss(0.0) + 0.25 * loss(1.0))


# --- in a training --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(trained_run: Path) -> Pretrained:
    return Pretrained("shapes", Checkpoint.load(trained_run / "best.safetensors"))


def test_a_student_comes_closer_to_its_teacher(
    teacher: Pretrained,
    shapes: Dataset,
    train_tiny: Train,
    tiny_network: Callable[..., NetworkConfig],
    tmp_path: Path,
) -> None:
    def divergence(weight: float) -> float:
        recipe = Recipe(epochs=4, batch_size=16, label_smoothing=0.0, distill_weight=weight)
        student = train_tiny(
            tmp_path / f"{weight}",
            network=tiny_network(width=0.03),
            recipe=recipe,
            teachers=[teacher],
        )
        taught, learnt = (
            softmax(
                predict.logits(one.network(), one.preprocessing, shapes.images, shapes.test), 1.0
            )
            for one in (teacher.checkpoint, student)
        )
        return float((taught * np.log(taught / learnt)).sum(1).mean())

    assert divergence(1.0) < 0.5 * divergence(0.0)


def test_a_student_resumes_with_the_same_teachers_and_no_other(
    teacher: Pretrained,
    train_tiny: Train,
    tmp_path: Path,
    short: Recipe,
    outcome: Callable[[Path], dict[str, Any]],
    stop_after: Any,
) -> None:
    fresh = replace(teacher.checkpoint, weights=NiN(teacher.checkpoint.config).state_dict())
    teachers = [teacher, Pretrained("fresh", fresh)]
    recipe = replace(short, epochs=1)
    train_tiny(tmp_path / "whole", recipe=recipe, teachers=teachers)
    run = tmp_path / "parts"
    with pytest.raises(TrainingStoppedError):
        train_tiny(run, recipe=recipe, teachers=teachers, should_stop=stop_after(13))
    for others in ([], teachers[:1], teachers[1:]):
        with pytest.raises(TrainingError, match="was trained with different teachers"):
            train_tiny(run, recipe=recipe, teachers=others)
    train_tiny(run, recipe=recipe, teachers=teachers)
    assert outcome(run) == outcome(tmp_path / "whole")


@pytest.mark.parametrize("teachers", [0, 2])
def test_the_time_left_counts_resolution_and_teachers(
    shapes_folder: Path,
    train_tiny: Train,
    tiny_network: Callable[..., NetworkConfig],
    short: Recipe,
    tmp_path: Path,
    teachers: int,
) -> None:
    dataset, reports = open_dataset(shapes_folder, size=32), list[Progress]()
    same = replace(initial(size=32).checkpoint, labels=dataset.labels)
    train_tiny(
        tmp_path,
        dataset=dataset,
        network=tiny_network(size=32),
        recipe=replace(short, batch_size=80),
        teachers=[Pretrained("same", same)] * teachers,
        report=reports.append,
    )
    first = next(report for report in reports if report.holdout_top1 is not None)
    # Two steps of 20 x 20 are done, two of 32 x 32 are left: 2.56 times as much. Each teacher is
    # like the student, at full resolution throughout: a third of a step more in each.
    done = 2 * 80 / first.images_per_second
    expected = (1 + teachers / 3) / ((20 / 32) ** 2 + teachers / 3)
    assert first.seconds_left / done == pytest.approx(expected)
