import dataclasses
import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from core.settings import Settings
from diffusion import lora
from diffusion.loading import BaseModel, load_base
from miniature.world import UNSEEN_SEED_START, identity_factors, render, sample_scene
from miniature.world.photos import to_image
from trainer.bench import Bench
from trainer.caches import CaptionedPhoto, TrainingCache, build_cache
from trainer.checkpoints import CheckpointFolder
from trainer.fit import fit
from trainer.losses import DivergenceWatch, FitDiverged, blind_loss, picture_losses
from trainer.member import draw_plan
from trainer.passes import Passes
from trainer.preservation import class_cache, class_prompts
from trainer.recipe import Recipe
from trainer.rows import Pictures
from trainer.seats import Seats


def test_weights_count_by_their_ratio_alone() -> None:
    predicted, target = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    target[0, 0] = 3  # the first token of the first picture is far off
    weights = torch.ones(2, 3, 4)
    weights[0, 1:] = 0
    assert torch.allclose(picture_losses(predicted, target), torch.tensor([11 / 3, 1.0]))
    assert torch.allclose(picture_losses(predicted, target, weights), torch.tensor([9.0, 1.0]))
    assert torch.allclose(picture_losses(predicted, target, 5 * weights), torch.tensor([9.0, 1.0]))


def loss_of(
    base: BaseModel, cache: TrainingCache, recipe: Recipe, extra: TrainingCache | None = None, adapter: lora.State | None = None
) -> float:
    """Of one micro-batch, photos and class pictures in one pass."""
    seats = Seats(base)
    passes = Passes(base, seats.training(recipe))
    seats.slots(recipe).write(0, adapter or {})
    rows = [Pictures(base, cache, recipe.background_weight).rows(draw_plan(base, cache, recipe, 3).draw(0), 0, recipe.guidance, 1.0)]
    if extra:
        draw = draw_plan(base, extra, recipe, 3, "class").draw(0)
        rows.append(Pictures(base, extra).rows(draw, 0, recipe.guidance, recipe.class_preservation))
    try:
        return passes.run(rows)[0].item()
    finally:
        seats.remove()


def test_without_masks_the_background_weight_changes_nothing(base: BaseModel, cache: TrainingCache, recipe: Recipe) -> None:
    light = recipe.model_copy(update={"background_weight": 0.1})
    assert loss_of(base, cache, light) == loss_of(base, cache, recipe)
    whole = dataclasses.replace(cache, coverage=torch.ones(len(cache), 1, *cache.shapes[0][1:]))
    assert loss_of(base, whole, light) == pytest.approx(loss_of(base, cache, recipe), rel=1e-5)


def test_what_is_around_the_subject_counts_as_little_as_the_recipe_says(base: BaseModel, cache: TrainingCache, recipe: Recipe) -> None:
    """The right half of every photo is made unlearnable: with weight 0 there, the loss does not know."""
    coverage = torch.ones(len(cache), 1, *cache.shapes[0][1:])
    coverage[..., coverage.shape[-1] // 2 :] = 0
    masked = dataclasses.replace(cache, coverage=coverage)
    full, tenth, none = (loss_of(base, masked, recipe.model_copy(update={"background_weight": weight})) for weight in (1.0, 0.1, 0.0))
    assert full == loss_of(base, cache, recipe)
    assert min(full, none) < tenth < max(full, none)
    assert abs(tenth - none) < 0.35 * abs(full - none)


def test_class_pictures_add_their_own_loss(base: BaseModel, cache: TrainingCache, recipe: Recipe) -> None:
    twice = recipe.model_copy(update={"class_preservation": 2.0, "caption_dropout": 0.0})
    plain = recipe.model_copy(update={"caption_dropout": 0.0})
    both, own = loss_of(base, cache, twice, cache), loss_of(base, cache, plain)
    other = loss_of(base, cache, twice.model_copy(update={"class_preservation": 4.0}), cache)
    assert own < both < other and other - own == pytest.approx(2 * (both - own), rel=1e-4)


def test_class_preservation_holds_the_class_where_the_base_had_it(base: BaseModel, cache: TrainingCache, tmp_path: Path) -> None:
    """Fitted on one photo with a caption that the class pictures share: with the loss they come out nearer to what they were."""
    settings = {"steps": 60, "batch_size": 2, "learning_rate": 2e-2, "rank": 8, "alpha": 8, "ema_decay": 0.0}
    one = TrainingCache(cache.keys[:1], [cache.latents[0] + 3], cache.text.rows([0, 5]))
    others = TrainingCache(cache.keys[1:3], cache.latents[1:3], cache.text.rows([1, 2, 5]))
    losses = []
    for weight in (0.0, 3.0):
        recipe = Recipe.for_run(5, base, settings | {"class_preservation": weight})
        path = fit(base, one, recipe, CheckpointFolder(tmp_path / str(weight), {}), class_cache=others)[60]
        losses.append(loss_with(base, path, others, recipe))
    assert losses[1] < 0.9 * losses[0]


def loss_with(base: BaseModel, path: Path, cache: TrainingCache, recipe: Recipe) -> float:
    return loss_of(base, cache, recipe.model_copy(update={"batch_size": 16}), adapter=lora.read(path)[0])


def test_class_pictures_are_rendered_once_a_class_word(bench: Bench, recipe: Recipe) -> None:
    wanted = recipe.model_copy(update={"class_preservation": 1.0, "class_images": 3})
    made = class_cache(bench, "tabby", wanted)
    assert made is not None and len(made) == 3 and made.coverage is None
    assert class_cache(bench, "tabby", wanted) is made
    assert class_cache(bench, "poodle", wanted) is not made
    assert class_cache(bench, "tabby", recipe) is None


def test_class_prompts_differ_and_never_name_a_subject() -> None:
    prompts = class_prompts("cat", 16)
    assert len(set(prompts)) == 16
    assert all(prompt.startswith("a photo of a cat, ") for prompt in prompts)


def noisy(median: float, count: int, seed: int) -> list[float]:
    """Relative losses as they come at batch 1."""
    lot = random.Random(seed)
    return [median * 10 ** lot.gauss(0, 0.25) for _ in range(count)]


def watched(losses: list[float]) -> DivergenceWatch:
    watch = DivergenceWatch(0.8, 25)
    for step, loss in enumerate(losses, start=1):
        watch.see(loss, step)
    return watch


@pytest.mark.parametrize("seed", range(20))
def test_noise_alone_stops_nothing(seed: int) -> None:
    watched(noisy(0.4, 1500, seed))
    watched([*noisy(0.4, 100, seed), 400.0, 1e6, 90.0, *noisy(0.4, 100, seed + 1)])  # single spikes heal
    watched(noisy(3.0, 200, seed))  # a base that was never taught is worse than blind from the start


@pytest.mark.parametrize("seed", range(20))
def test_a_loss_that_has_run_away_stops_the_fit_with_its_reason(seed: int) -> None:
    with pytest.raises(FitDiverged, match=r"by step 1\d\d its error was .* times .* photos are kept"):
        watched([*noisy(0.3, 100, seed), *noisy(1.05, 60, seed + 1)])


def test_a_resumed_watch_judges_by_the_same_beginning() -> None:
    first = watched(noisy(0.5, 40, 1))
    second = DivergenceWatch(0.8, 25)
    second.restore(first.tensors())
    assert second.first == first.first
    fresh = DivergenceWatch(0.8, 25)
    fresh.restore({})
    assert fresh.first == []


def test_a_blind_guess_is_the_best_linear_one() -> None:
    """Against least squares on draws: v from x_σ, for pictures of variance 0.5."""
    torch.manual_seed(0)
    pictures, noise = 0.5**0.5 * torch.randn(200_000), torch.randn(200_000)
    for sigma in (0.2, 0.5, 0.9):
        seen, target = (1 - sigma) * pictures + sigma * noise, noise - pictures
        error = (target - seen * (seen @ target) / (seen @ seen)).square().mean()
        assert blind_loss(torch.tensor([sigma]), 0.5).item() == pytest.approx(error.item(), rel=0.02)


@pytest.fixture(scope="module")
def taught() -> BaseModel:
    return load_base(Settings().base_model_path, precision="fp32", device="cpu")


@pytest.mark.parametrize(("rate", "runs_away"), [(5e-4, False), (1e-2, True), (5e-2, True)])
def test_a_rate_that_is_far_too_high_ends_the_training(taught: BaseModel, rate: float, runs_away: bool, tmp_path: Path) -> None:
    photos = [CaptionedPhoto(f"{n:064x}", face, "a photo of zokzex cat") for n, face in enumerate(drawn_faces(4))]
    cache = build_cache(taught, photos, 128)
    recipe = Recipe.for_run(4, taught, {"steps": 60, "learning_rate": rate, "batch_size": 1, "resolution": 128})
    folder = CheckpointFolder(tmp_path, {})
    if not runs_away:
        assert fit(taught, cache, recipe, folder)
        return
    with pytest.raises(FitDiverged, match="unstable"):
        fit(taught, cache, recipe, folder)
    assert not folder.candidates()
    assert not lora.parameters(taught.transformer)


def drawn_faces(count: int) -> list[Image.Image]:
    lot = random.Random(1)
    scenes = [sample_scene(lot, style="photo") for _ in range(count)]
    return [to_image(picture) for picture in render("cat", identity_factors("cat", torch.tensor([UNSEEN_SEED_START] * count)), scenes)]
