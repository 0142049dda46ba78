import pytest
import torch
from diffusers import FluxTransformer2DModel

from api.recipes import RecipeOverrides
from core.errors import UserError
from diffusion.families.flux1 import Flux1
from diffusion.loading import BaseModel
from trainer.recipe import Recipe
from trainer.trainee import learning_rate


def test_every_default_names_its_source() -> None:
    assert [name for name, field in Recipe.model_fields.items() if not field.description] == []


def test_the_base_models_folder_overrides_defaults_and_the_client_both(base: BaseModel) -> None:
    recipe = Recipe.for_run(12, base, {"batch_size": 3})
    assert (recipe.steps, recipe.rank, recipe.resolution) == (6, 4, base.resolution)
    assert recipe.batch_size == 3


@pytest.mark.parametrize(("photos", "steps"), [(8, 500), (15, 750), (40, 1500)])
def test_steps_follow_the_photos_within_bounds(base: BaseModel, photos: int, steps: int) -> None:
    assert Recipe.for_run(photos, base, {"steps": 0}).steps == steps


@pytest.mark.parametrize("overrides", [{"rank": 0}, {"learning_rate": -1.0}, {"no_such_field": 1}, {"steps": "many"}])
def test_a_bad_override_names_its_field(base: BaseModel, overrides: dict) -> None:
    with pytest.raises(UserError) as refused:
        Recipe.for_run(12, base, overrides)
    assert list(refused.value.extra["fields"]) == list(overrides)


def test_the_last_step_is_always_a_candidate() -> None:
    assert Recipe(steps=200, candidates=(0.5, 0.75)).candidate_steps == (100, 150, 200)
    assert Recipe(steps=1).candidate_steps == (1,)


def test_the_learning_rate_warms_up_and_then_follows_its_schedule() -> None:
    recipe = Recipe(steps=100, learning_rate=1e-3, warmup_steps=10)
    assert learning_rate(recipe, 0) == pytest.approx(1e-4)
    assert learning_rate(recipe, 9) == learning_rate(recipe, 99) == pytest.approx(1e-3)
    cosine = recipe.model_copy(update={"lr_schedule": "cosine"})
    assert learning_rate(cosine, 50) == pytest.approx(0.55e-3)
    assert learning_rate(cosine, 99) == pytest.approx(1e-4, rel=0.01)


def test_what_clients_may_change_is_of_the_recipe() -> None:
    most = {
        "steps": 10_000,
        "rank": 128,
        "alpha": 256,
        "learning_rate": 1e-2,
        "batch_size": 16,
        "background_weight": 1,
        "class_preservation": 10,
    }
    assert set(most) == set(RecipeOverrides.model_fields)
    assert Recipe(**RecipeOverrides(**most).model_dump()).rank == 128


def test_an_adapter_of_flux1_dev_is_at_most_150_mb() -> None:
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(guidance_embeds=True)
    recipe, modules = Recipe(), [transformer.get_submodule(name) for name in Flux1().lora_modules(transformer, Recipe().target_set)]
    weights = sum(2 * recipe.rank * (layer.in_features + layer.out_features) for layer in modules)
    header = 2 * len(modules) * 200  # bytes a tensor's name, shape and place take, generously
    assert recipe.rank == 32
    assert weights + header <= 150e6
