import pytest
import torch
from PIL import Image

from diffusion.loading import BaseModel
from diffusion.text import encode_prompts
from tests.unit.trainer.conftest import stripes
from trainer.buckets import Bucket, buckets_of
from trainer.caches import CaptionedPhoto, TrainingCache, build_cache, crop_to


def test_a_photo_keeps_its_own_caption_whatever_the_order(base: BaseModel) -> None:
    photos = [CaptionedPhoto(f"{n:064x}", stripes(n), f"caption {n}") for n in range(3)]
    cache, reversed_cache = (build_cache(base, order, base.resolution) for order in (photos, photos[::-1]))
    assert cache.keys == reversed_cache.keys
    assert all(map(torch.equal, cache.latents, reversed_cache.latents))
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
    assert cache.shapes == ((4, base.resolution // 8, base.resolution // 8),) * 5
    assert {latents.dtype for latents in cache.latents} == {torch.float32}


def test_the_crop_is_square_and_keeps_the_upper_part_of_a_tall_picture() -> None:
    tall = stripes(0, (32, 52))
    cropped = crop_to(tall, Bucket(32, 32))
    assert cropped.size == (32, 32)
    expected = tall.crop((0, 7, 32, 39))
    assert cropped.tobytes() == expected.tobytes()


def test_only_as_many_text_tokens_are_kept_as_captions_need(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny tokenizer counts letters, so captions of 9 and 20 tokens end at lengths of 10 and 32 (all that there are)."""
    monkeypatch.setattr("trainer.caches.TEXT_LENGTHS", (4, 10, 32))
    for caption, length in (("abcdefg", 10), ("abcdefghijklmnopqr", 32)):
        text = build_cache(base, [CaptionedPhoto("a" * 64, stripes(1), caption)], base.resolution).text
        whole = encode_prompts(base, [caption, ""])
        assert text.prompt_embeds.shape[1] == text.text_ids.shape[0] == length
        assert torch.equal(text.prompt_embeds, whole.prompt_embeds[:, :length])
        assert torch.equal(text.pooled_prompt_embeds, whole.pooled_prompt_embeds)


def test_photos_of_other_ratios_keep_their_shape(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at 512 pixels, an eighth the size."""
    monkeypatch.setattr("trainer.buckets.STEP", 8)
    monkeypatch.setattr("trainer.buckets.SQUARE_ONLY_BELOW", 64)
    buckets_of.cache_clear()
    mask = Image.new("L", (120, 160))
    mask.paste(255, (0, 80, 120, 160))  # the lower half
    photos = [CaptionedPhoto("a" * 64, stripes(1, (96, 96)), "one"), CaptionedPhoto("b" * 64, stripes(2, (120, 160)), "two", mask)]
    cache = build_cache(base, photos, 64)
    buckets_of.cache_clear()
    assert cache.shapes == ((4, 8, 8), (4, 9, 7))
    assert cache.coverage is not None and cache.masked == 1
    assert cache.coverage[0].min() == 1
    assert torch.allclose(cache.coverage[1][0, :, 0], torch.tensor([0.0] * 4 + [0.5] + [1.0] * 4), atol=0.15)
