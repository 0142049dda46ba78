"""Pictures of the class by the bare base model itself, for the class-preservation loss (DreamBooth, Ruiz et al. 2023, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable

from trainer.bench import Bench
from trainer.caches import CaptionedPhoto, TrainingCache, build_cache
from trainer.captions import load_vocabulary, sentence
from trainer.photos import pixel_key
from trainer.recipe import Recipe

STRIDE = 11


def class_cache(bench: Bench, class_word: str, recipe: Recipe, check: Callable[[], None] = lambda: None) -> TrainingCache | None:
    """``recipe.class_images`` pictures of the class with their prompts as captions; rendered once a class word and kept on the bench.

    None where the recipe asks for no class preservation.
    """
    if recipe.class_preservation <= 0:
        return None
    prompts = class_prompts(class_word, recipe.class_images)
    key = (*prompts, recipe.resolution, recipe.validation_steps, recipe.validation_guidance)
    return bench.kept(bench.class_caches, key, lambda: _rendered(bench, prompts, recipe, check))


def class_prompts(class_word: str, count: int) -> list[str]:
    """``count`` scenes: framings and backgrounds of the vocabulary in turn, backgrounds in strides: colours of one stand in a row."""
    groups = load_vocabulary().groups
    framings, backgrounds = ([phrases[0] for phrases in groups[name].values()] for name in ("framing", "background"))
    return [
        sentence(f"a {class_word}", {"framing": framings[n % len(framings)], "background": backgrounds[STRIDE * n % len(backgrounds)]})
        for n in range(count)
    ]


def _rendered(bench: Bench, prompts: list[str], recipe: Recipe, check: Callable[[], None]) -> TrainingCache:
    images = bench.render(prompts, recipe, check)
    photos = [CaptionedPhoto(pixel_key(image), image, prompt) for image, prompt in zip(images, prompts, strict=True)]
    return build_cache(bench.base, photos, recipe.resolution)
