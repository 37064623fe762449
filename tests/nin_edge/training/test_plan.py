from __future__ import annotations

from typing import Any

import pytest

from nin_edge.network import SIZES, NetworkConfig
from nin_edge.training.errors import TrainingError
from nin_edge.training.plan import Plan, low_resolution_side
from nin_edge.training.recipe import Recipe


def plan(images: int = 100, processes: int = 1, head: str = "gap", **changes: Any) -> Plan:
    network = NetworkConfig.from_preset("nin-bn", classes=3, head=head)
    return Plan.of(Recipe(**{"epochs": 2, "batch_size": 10, **changes}), network, images, processes)


def test_images_that_do_not_fill_a_batch_are_left_out() -> None:
    assert plan(images=109) == plan(images=100)
    assert (plan().batch_size, plan().steps_per_epoch, plan().steps) == (10, 10, 20)
    assert plan(images=7).batch_size == 7  # fewer than a batch
    assert plan(images=7, processes=2, batch_size=10).batch_size == 6


def test_the_first_steps_are_at_low_resolution() -> None:
    half = plan(low_resolution=0.5)
    assert [half.side(step) for step in (0, 9, 10, 19)] == [20, 20, 32, 32]
    assert half.low_resolution_epochs == 1
    assert plan(low_resolution=0.6).low_resolution_epochs == 2
    assert plan(low_resolution=0.0).low_resolution_epochs == 0


def test_whole_images_are_a_share_of_the_steps_at_full_resolution() -> None:
    assert plan(low_resolution=0.5, whole_images=0.4).whole_image_steps == 4  # of 10
    assert plan(low_resolution=0.0, whole_images=0.4).whole_image_steps == 8  # of 20
    assert plan(head="fc", low_resolution=0.5, whole_images=0.4).whole_image_steps == 8
    assert plan().whole_image_steps == 0


def test_a_fully_connected_head_sees_images_of_one_size() -> None:
    assert plan(head="fc", low_resolution=0.5).low_resolution_steps == 0


def test_steps_at_low_resolution_are_less_work() -> None:
    half = plan(low_resolution=0.5)
    assert half.work(10) == pytest.approx(10 * (20 / 32) ** 2)
    assert half.work(20) - half.work(10) == 10
    # Teachers see full resolution throughout.
    assert half.work(20, teacher_work=0.5) == half.work(20) + 10


def test_low_resolution_costs_about_two_fifths() -> None:
    assert low_resolution_side(32) == 20
    for size in SIZES:
        side = low_resolution_side(size)
        assert SIZES.start <= side <= size
        assert side % 4 == 0
        assert size < 32 or 0.3 < (side / size) ** 2 < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"processes": 2, "batch_size": 15},
            "a batch of 15 images for 2 processes: expected a multiple, .* such as 14 or 16, or a "
            "number of processes that divides it, such as 1",
        ),
        ({"processes": 5, "batch_size": 4}, "such as 5, or .* such as 4"),
        (
            {"images": 3, "processes": 2},
            "a batch of 2 images for 2 processes, of 3 training images: expected at least two",
        ),
    ],
)
def test_a_batch_that_processes_cannot_share_is_refused(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        plan(**arguments)
