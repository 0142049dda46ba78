import torch

from diffusion.loading import BaseModel
from diffusion.text import encode_prompts
from tests.unit.trainer.conftest import stripes
from trainer.caches import CaptionedPhoto, TrainingCache, build_cache, crop_square


def test_a_photo_keeps_its_own_caption_whatever_the_order(base: BaseModel) -> None:
    photos = [CaptionedPhoto(f"{n:064x}", stripes(n), f"caption {n}") for n in range(3)]
    cache, reversed_cache = (build_cache(base, order, base.resolution) for order in (photos, photos[::-1]))
    assert cache.keys == reversed_cache.keys
    assert torch.equal(cache.latents, reversed_cache.latents)
    for row, photo in enumerate(photos):
        assert torch.equal(cache.text.prompt_embeds[row], encode_prompts(base, [photo.caption]).prompt_embeds[0])


def test_a_photo_that_comes_twice_is_encoded_once(base: BaseModel) -> None:
    photos = [CaptionedPhoto("a" * 64, stripes(1), "one")] * 2
    done: list[int] = []
    assert len(build_cache(base, photos, base.resolution, done.append)) == 1
    assert done == [1]


def test_the_last_row_is_the_empty_caption(base: BaseModel, cache: TrainingCache) -> None:
    empty = encode_prompts(base, [""]).prompt_embeds[0]
    assert torch.equal(cache.text.prompt_embeds[cache.empty_row], empty)


def test_latents_have_the_size_of_the_resolution(base: BaseModel, cache: TrainingCache) -> None:
    assert cache.latents.shape == (5, 4, base.resolution // 8, base.resolution // 8)
    assert cache.latents.dtype == torch.float32


def test_the_crop_is_square_and_keeps_the_upper_part_of_a_tall_picture() -> None:
    tall = stripes(0, (32, 52))
    cropped = crop_square(tall, 32)
    assert cropped.size == (32, 32)
    expected = tall.crop((0, 7, 32, 39))
    assert cropped.tobytes() == expected.tobytes()
