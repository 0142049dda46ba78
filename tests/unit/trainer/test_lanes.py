"""Pictures side by side on a CPU: as many lanes as there are, the same gradient; and threads of everybody else as they were."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from diffusion.loading import BaseModel
from diffusion.slot_training import SlotTraining
from trainer.caches import TrainingCache
from trainer.lanes import Lanes
from trainer.member import draw_plan
from trainer.passes import Passes
from trainer.recipe import Recipe
from trainer.rows import Pictures, Rows
from trainer.seats import Seats


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_lanes_share_the_threads_and_leave_everybody_elses_alone() -> None:
    torch.set_num_threads(4)
    lanes, seen = Lanes(2), []
    assert lanes.map(lambda _: torch.get_num_threads(), range(6)) == [2] * 6
    late = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    late.start()
    late.join()
    assert torch.get_num_threads() == 4 and seen == [4]


def test_there_are_never_more_lanes_than_threads() -> None:
    torch.set_num_threads(1)
    assert Lanes(8).count == 1


def test_an_error_waits_for_the_other_lanes() -> None:
    torch.set_num_threads(2)
    done, failed = [], threading.Event()

    def work(index: int) -> None:
        if index == 0:
            failed.set()
            raise ValueError("no picture")
        failed.wait(10)
        done.append(index)

    with pytest.raises(ValueError, match="no picture"):
        Lanes(2).map(work, range(4))
    assert done == [1, 2, 3]


@contextmanager
def an_adapter(base: BaseModel, recipe: Recipe) -> Iterator[tuple[SlotTraining, Passes]]:
    """In slot 0, with a B that is not zero."""
    seats = Seats(base)
    training, passes = seats.training(recipe), seats.passes(recipe)
    seats.slots(recipe).start(0, 5)
    with torch.no_grad():
        training.slots.weights.add_(0.01)
    try:
        yield training, passes
    finally:
        seats.remove()


def gradient(base: BaseModel, recipe: Recipe, rows: list[Rows], lanes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss and the gradient of the adapter."""
    torch.set_num_threads(lanes)
    with an_adapter(base, recipe) as (training, passes):
        return passes.run(rows)[0].clone(), training.gradients[0].clone()


def rows_of(base: BaseModel, cache: TrainingCache, recipe: Recipe, count: int) -> list[Rows]:
    plan = draw_plan(base, cache, recipe.model_copy(update={"batch_size": count}), 3)
    return [Pictures(base, cache).rows(plan.draw(0), 0, recipe.guidance, 1.0)]


def test_the_number_of_lanes_changes_no_bit(base: BaseModel, cache: TrainingCache, recipe: Recipe) -> None:
    rows = rows_of(base, cache, recipe, 3)
    (loss, alone), (same_loss, beside) = (gradient(base, recipe, rows, lanes) for lanes in (1, 3))
    assert torch.equal(loss, same_loss) and torch.equal(alone, beside) and alone.abs().max() > 0


def test_side_by_side_is_what_one_batch_computes(base: BaseModel, cache: TrainingCache, recipe: Recipe) -> None:
    rows = rows_of(base, cache, recipe, 3)
    loss, beside = gradient(base, recipe, rows, 2)
    with an_adapter(base, recipe) as (training, passes):
        values = passes.losses(rows[0])
        (values * rows[0].factor).sum().backward()
        training.collect()
        assert torch.allclose(loss, (values.detach() * rows[0].factor).sum(), rtol=1e-5)
        assert torch.allclose(beside, training.gradients[0], rtol=1e-4, atol=1e-7)
