import gc
import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.errors import JobCanceled
from diffusion import lora
from diffusion.loading import BaseModel, load_base
from tests.tiny import build_tiny_flux
from trainer.caches import TrainingCache
from trainer.checkpoints import STATE_FILE, CheckpointFolder, step_of
from trainer.fit import fit
from trainer.losses import FitDiverged
from trainer.recipe import Recipe
from trainer.reports import StepClock, StepReport


def same(a: Path, b: Path) -> bool:
    first, second = load_file(a), load_file(b)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def stop_after(step: int):
    def stop(report: StepReport) -> None:
        if report.step > step:
            raise JobCanceled

    return stop


def test_a_killed_and_resumed_run_gives_the_very_same_adapter(
    base: BaseModel, cache: TrainingCache, recipe: Recipe, tmp_path: Path
) -> None:
    whole = fit(base, cache, recipe, CheckpointFolder(tmp_path / "whole", {"seed": 7}), seed=7)

    cut = CheckpointFolder(tmp_path / "cut", {"seed": 7})
    with pytest.raises(JobCanceled):
        fit(base, cache, recipe, cut, seed=7, on_step=stop_after(4))
    assert (cut.newest() or pytest.fail("no state")).step == 4
    steps: list[int] = []
    resumed = fit(base, cache, recipe, cut, seed=7, on_step=lambda report: steps.append(report.step))

    assert steps == [5, 6]
    assert resumed.keys() == whole.keys() == set(recipe.candidate_steps)
    assert all(same(resumed[step], whole[step]) for step in whole)


class HeldBack:
    """Stands in the way of the first checkpoint until the fit has done another step; writes nothing itself."""

    def __init__(self) -> None:
        self.went_on = threading.Event()
        self.waited: list[bool] = []

    def see(self, report: StepReport) -> None:
        if report.step > 2:  # the first checkpoint's
            self.went_on.set()

    def make_room(self, size: int) -> None:
        self.waited.append(self.went_on.wait(30))


def test_the_fit_goes_on_while_a_checkpoint_is_written_which_holds_its_own_step(
    base: BaseModel, cache: TrainingCache, recipe: Recipe, tmp_path: Path
) -> None:
    whole = fit(base, cache, recipe, CheckpointFolder(tmp_path / "whole", {}))
    held, kept = HeldBack(), tmp_path / "kept"

    def keep(path: Path) -> None:
        kept.mkdir(exist_ok=True)
        if not (kept / path.name).exists():
            shutil.copy(path, kept)

    slow = fit(base, cache, recipe, CheckpointFolder(tmp_path / "slow", {}, held.make_room), on_step=held.see, on_saved=keep)
    assert held.waited and all(held.waited)
    assert all(same(slow[step], whole[step]) for step in whole)
    first = CheckpointFolder(kept, {})
    assert (first.newest() or pytest.fail("no state")).step == 2
    resumed = fit(base, cache, recipe, first)
    assert all(same(resumed[step], whole[step]) for step in whole)


@pytest.mark.parametrize("at", [2, 6])
def test_what_goes_wrong_while_a_checkpoint_is_stored_ends_the_fit(
    base: BaseModel, cache: TrainingCache, recipe: Recipe, folder: Path, at: int
) -> None:
    steps: list[int] = []

    def fail(path: Path) -> None:
        if path.name == STATE_FILE and step_of(path) == at:
            raise JobCanceled

    with pytest.raises(JobCanceled):
        fit(base, cache, recipe, CheckpointFolder(folder, {}), on_step=lambda report: steps.append(report.step), on_saved=fail)
    saved = sorted({2, 4, 6, *recipe.candidate_steps})
    assert max(steps) in [step for step in saved if step >= at][:3], "found where one of the next two is saved, or at the end"


def test_guests_are_let_in_while_a_step_waits_for_checkpoints_that_are_stored_too_slowly(
    base: BaseModel, cache: TrainingCache, recipe: Recipe, folder: Path
) -> None:
    done, let_in, came_within_a_step = [], [], threading.Event()

    def guest() -> None:
        let_in.append(None)
        if len(let_in) > len(done):
            came_within_a_step.set()

    def store(path: Path) -> None:
        assert came_within_a_step.wait(10)

    fit(base, cache, recipe, CheckpointFolder(folder, {}), on_step=done.append, on_saved=store, between_steps=guest)
    assert came_within_a_step.is_set()


def test_guests_are_let_in_while_the_last_checkpoint_is_stored(base: BaseModel, cache: TrainingCache, recipe: Recipe, folder: Path) -> None:
    """A store far away takes seconds for a GB, and a portrait may be waiting."""
    let_in, came_after_the_last_step = [], threading.Event()

    def guest() -> None:
        let_in.append(None)
        if len(let_in) > recipe.steps:
            came_after_the_last_step.set()

    def store(path: Path) -> None:
        if path.name == STATE_FILE and step_of(path) == recipe.steps:
            assert came_after_the_last_step.wait(10)

    fit(base, cache, recipe, CheckpointFolder(folder, {}), on_saved=store, between_steps=guest)
    assert came_after_the_last_step.is_set()


def test_another_seed_gives_another_adapter(base: BaseModel, cache: TrainingCache, recipe: Recipe, tmp_path: Path) -> None:
    paths = [fit(base, cache, recipe, CheckpointFolder(tmp_path / str(seed), {}), seed=seed)[recipe.steps] for seed in (1, 2)]
    assert not same(*paths)


def test_the_state_of_another_run_is_not_resumed(base: BaseModel, cache: TrainingCache, recipe: Recipe, folder: Path) -> None:
    fit(base, cache, recipe, CheckpointFolder(folder, {"seed": 1}), seed=1)
    other = CheckpointFolder(folder, {"seed": 2})
    assert other.newest() is None and other.candidates() == {}


def test_the_base_is_left_as_it_was(base: BaseModel, cache: TrainingCache, recipe: Recipe, folder: Path) -> None:
    before = {name: parameter.clone() for name, parameter in base.transformer.named_parameters()}
    forward = base.transformer.forward
    fit(base, cache, recipe, CheckpointFolder(folder, {}))
    after = dict(base.transformer.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and not after[name].requires_grad for name in before)
    assert base.transformer.forward == forward


def test_fitting_lowers_the_loss(base: BaseModel, cache: TrainingCache, folder: Path) -> None:
    """One photo, high rate: the adapter must learn it, or gradients do not reach its weights."""
    recipe = Recipe.for_run(5, base, {"steps": 120, "batch_size": 4, "learning_rate": 2e-2, "rank": 8, "alpha": 8, "caption_dropout": 0})
    one = TrainingCache(cache.keys[:1], cache.latents[:1], cache.text.rows([0, 5]))
    losses: list[float] = []
    fit(base, one, recipe, CheckpointFolder(folder, {}), on_step=lambda report: losses.append(report.loss))
    assert losses[-1] < 0.75 * losses[0]


def test_bf16_keeps_float32_masters_and_stores_bf16(cache: TrainingCache, recipe: Recipe, folder: Path, tmp_path: Path) -> None:
    half = load_base(build_tiny_flux(tmp_path / "flux"), precision="bf16", device="cpu")
    candidates = fit(half, cache, recipe, CheckpointFolder(folder, {}))
    state = (CheckpointFolder(folder, {}).newest() or pytest.fail("no state")).tensors
    assert {state["weight"].dtype} == {torch.float32}
    assert {value.dtype for value in load_file(candidates[recipe.steps]).values()} == {torch.bfloat16}


def test_a_candidate_is_a_valid_adapter_of_this_base(base: BaseModel, cache: TrainingCache, recipe: Recipe, folder: Path) -> None:
    path = fit(base, cache, recipe, CheckpointFolder(folder, {}))[recipe.steps]
    state, _ = lora.read(path, base.transformer, base.family.lora_allowlist(base.transformer))
    assert any(weight.abs().max() > 0 for key, weight in state.items() if "lora_B" in key)


@pytest.mark.parametrize("poison", ["latents", "rate"])
def test_a_run_that_is_not_finite_stops_with_a_reason(
    base: BaseModel, cache: TrainingCache, recipe: Recipe, folder: Path, poison: str
) -> None:
    latents = torch.stack(tuple(cache.latents))
    if poison == "latents":
        latents[:] = torch.nan
    else:
        latents[:] = 1e30
    with pytest.raises(FitDiverged, match="step 1"):
        fit(base, TrainingCache(cache.keys, latents, cache.text), recipe, CheckpointFolder(folder, {}))
    assert CheckpointFolder(folder, {}).newest() is None
    assert not lora.parameters(base.transformer)


def test_accumulated_micro_batches_make_one_step(base: BaseModel, cache: TrainingCache, folder: Path) -> None:
    recipe = Recipe.for_run(5, base, {"steps": 2, "batch_size": 1, "gradient_accumulation_steps": 3})
    reports: list[StepReport] = []
    fit(base, cache, recipe, CheckpointFolder(folder, {}), on_step=reports.append)
    state = (CheckpointFolder(folder, {}).newest() or pytest.fail("no state")).tensors
    assert [report.step for report in reports] == [1, 2]
    assert {value.item() for key, value in state.items() if key.endswith("/step")} == {2.0}


def test_gradient_checkpointing_changes_nothing_and_is_switched_off_again(
    base: BaseModel, cache: TrainingCache, recipe: Recipe, tmp_path: Path
) -> None:
    results = []
    for wanted in ("on", "off"):
        own = recipe.model_copy(update={"gradient_checkpointing": wanted})
        results.append(fit(base, cache, own, CheckpointFolder(tmp_path / wanted, {}))[recipe.steps])
        assert not base.transformer.gradient_checkpointing
    assert same(*results)


def test_the_eta_is_the_measured_pace_times_what_is_left() -> None:
    clock = StepClock()
    clock.last -= 2.0
    clock.tick()
    report = clock.report(1, 11, 0.5)
    assert report.eta_s == pytest.approx(20, abs=0.5)
    assert report.loss == 0.5


def test_nothing_of_a_fit_is_held_when_it_is_over(base: BaseModel, cache: TrainingCache, recipe: Recipe, folder: Path) -> None:
    """Also not by cycles, which would hold a GB a job at true size until the next full collection."""
    gc.collect()
    before = optimizers()
    gc.disable()
    try:
        fit(base, cache, recipe, CheckpointFolder(folder, {}))
        assert optimizers() == before
    finally:
        gc.enable()


def test_a_collection_during_a_fit_looks_at_what_the_fit_made(base: BaseModel, cache: TrainingCache, recipe: Recipe, folder: Path) -> None:
    """And not at the base and all that was loaded with it, which takes most of a second in the middle of a step."""
    gc.unfreeze()
    before, during = len(gc.get_objects()), []
    fit(base, cache, recipe, CheckpointFolder(folder, {}), between_steps=lambda: during.append(len(gc.get_objects())))
    assert max(during) < before / 4


def optimizers() -> int:
    return sum(type(held) is torch.optim.AdamW for held in gc.get_objects())
