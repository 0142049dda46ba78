"""Several customers' adapters in one pass: each comes out as if it had been alone."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.errors import JobCanceled
from diffusion.loading import BaseModel
from diffusion.text import encode_prompts
from trainer.caches import TrainingCache
from trainer.checkpoints import CheckpointFolder
from trainer.fit import fit, fit_together
from trainer.losses import FitDiverged
from trainer.member import FitOrder
from trainer.recipe import Recipe
from trainer.reports import StepReport
from trainer.seats import Seats

WITHIN = 1e-4  # relative error of an adapter's weights against those of the same adapter fitted alone (float32, measured below 2e-5)


def customer(base: BaseModel, number: int, shapes: list[tuple[int, int]]) -> TrainingCache:
    """Photos and captions of their own."""
    generator = torch.Generator().manual_seed(number)
    latents = [torch.randn(4, *shape, generator=generator) for shape in shapes]
    captions = [f"customer {number}, photo {n}" for n in range(len(shapes))]
    return TrainingCache(tuple(captions), latents, encode_prompts(base, [*captions, ""]))


def recipe_of(base: BaseModel, **changes: object) -> Recipe:
    return Recipe.for_run(3, base, {"steps": 6, "batch_size": 2, "learning_rate": 1e-2, "candidates": [1.0], **changes})


def order(cache: TrainingCache, recipe: Recipe, folder: Path, seed: int, **watching: object) -> FitOrder:
    return FitOrder(cache, recipe, CheckpointFolder(folder, {"seed": seed}), seed, **watching)  # type: ignore[arg-type]


def error(path: Path, other: Path) -> float:
    one, two = (torch.cat([value.flatten() for _, value in sorted(load_file(file).items())]) for file in (path, other))
    return ((one - two).norm() / two.norm()).item()


SQUARE, WIDE = (4, 4), (2, 6)


@pytest.mark.parametrize("shapes", [[SQUARE] * 3, [SQUARE, WIDE, SQUARE]], ids=["one shape", "mixed shapes"])
def test_each_is_what_it_would_have_been_alone(base: BaseModel, shapes: list[tuple[int, int]], tmp_path: Path) -> None:
    caches = [customer(base, number, shapes) for number in range(3)]
    recipes = [recipe_of(base), recipe_of(base, steps=4, learning_rate=5e-3), recipe_of(base, batch_size=3, ema_decay=0.0)]
    orders = [order(cache, recipe, tmp_path / f"{n}", n) for n, (cache, recipe) in enumerate(zip(caches, recipes, strict=True))]
    fittings = fit_together(base, orders)
    assert [max(fitting.candidates) for fitting in fittings] == [6, 4, 6]
    for n, (cache, recipe, fitting) in enumerate(zip(caches, recipes, fittings, strict=True)):
        alone = fit(base, cache, recipe, CheckpointFolder(tmp_path / f"alone-{n}", {}), seed=n)
        assert error(fitting.candidates[recipe.steps], alone[recipe.steps]) < WITHIN
    others = fittings[0].candidates[6], fittings[2].candidates[6]
    assert error(*others) > 0.1  # they differ, so the comparison means something


def test_one_that_stops_leaves_the_others_as_they_would_have_been(base: BaseModel, tmp_path: Path) -> None:
    def cancel(report: StepReport) -> None:
        if report.step == 2:
            raise JobCanceled

    caches = [customer(base, number, [SQUARE] * 3) for number in range(3)]
    caches[1] = TrainingCache(caches[1].keys, [latents * torch.nan for latents in caches[1].latents], caches[1].text)
    recipe = recipe_of(base)
    watching = [{"on_step": cancel}, {}, {}]
    orders = [order(cache, recipe, tmp_path / f"{n}", n, **watching[n]) for n, cache in enumerate(caches)]
    canceled, diverged, whole = fit_together(base, orders)
    assert isinstance(canceled.error, JobCanceled) and isinstance(diverged.error, FitDiverged) and whole.error is None
    alone = fit(base, caches[2], recipe, CheckpointFolder(tmp_path / "alone", {}), seed=2)
    assert error(whole.candidates[6], alone[6]) < WITHIN


def test_one_joins_where_it_was_interrupted(base: BaseModel, tmp_path: Path) -> None:
    """It had four steps behind it, the others none: it leaves first."""
    caches = [customer(base, number, [SQUARE] * 3) for number in range(2)]
    recipe = recipe_of(base, checkpoint_every=2)

    def stop(report: StepReport) -> None:
        if report.step == 5:
            raise JobCanceled

    with pytest.raises(JobCanceled):
        fit(base, caches[0], recipe, CheckpointFolder(tmp_path / "0", {"seed": 0}), seed=0, on_step=stop)
    steps: list[tuple[int, int]] = []
    orders = [order(c, recipe, tmp_path / f"{n}", n, on_step=lambda r, n=n: steps.append((n, r.step))) for n, c in enumerate(caches)]
    fittings = fit_together(base, orders)
    assert [step for n, step in steps if n == 0] == [5, 6] and [step for n, step in steps if n == 1] == [1, 2, 3, 4, 5, 6]
    for n, cache in enumerate(caches):
        alone = fit(base, cache, recipe, CheckpointFolder(tmp_path / f"alone-{n}", {}), seed=n)
        assert error(fittings[n].candidates[6], alone[6]) < WITHIN


def test_kept_seats_change_nothing(base: BaseModel, tmp_path: Path) -> None:
    """The slots of an earlier fit, of another customer, leave nothing behind; and the base is bare in between."""
    cache, recipe = customer(base, 1, [SQUARE] * 3), recipe_of(base)
    fresh = fit(base, cache, recipe, CheckpointFolder(tmp_path / "fresh", {}), seed=1)
    before = base.pipeline()(
        "a cat",
        height=32,
        width=32,
        num_inference_steps=1,
        max_sequence_length=32,
        output_type="pt",
        generator=torch.Generator().manual_seed(0),
    ).images
    seats = Seats(base, count=2)
    fit_together(base, [order(customer(base, n, [SQUARE] * 3), recipe, tmp_path / f"{n}", n) for n in (5, 6)], seats=seats)
    after = base.pipeline()(
        "a cat",
        height=32,
        width=32,
        num_inference_steps=1,
        max_sequence_length=32,
        output_type="pt",
        generator=torch.Generator().manual_seed(0),
    ).images
    assert torch.equal(before, after)
    warm = fit(base, cache, recipe, CheckpointFolder(tmp_path / "warm", {}), seed=1, seats=seats)
    seats.remove()
    assert error(warm[6], fresh[6]) == 0


def test_what_runs_between_steps_runs_after_each(base: BaseModel, tmp_path: Path) -> None:
    called: list[int] = []
    cache = customer(base, 1, [SQUARE])
    fit(base, cache, recipe_of(base), CheckpointFolder(tmp_path, {}), between_steps=lambda: called.append(1))
    assert len(called) == 6
