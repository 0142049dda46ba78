import torch
from diffusers import FluxPipeline
from PIL import Image

from diffusion import latents
from diffusion.loading import BaseModel
from diffusion.text import encode_prompts

PROMPTS = ["a photo of ohwx cat in a park", "an oil painting of a dog, far longer than what the encoder reads " * 3]


def test_prompts_are_encoded_as_the_pipeline_does(base: BaseModel) -> None:
    expected = FluxPipeline(**base.components()).encode_prompt(PROMPTS, max_sequence_length=base.max_text_tokens)
    embeds = encode_prompts(base, PROMPTS)
    for ours, theirs in zip((embeds.prompt_embeds, embeds.pooled_prompt_embeds, embeds.text_ids), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_prompt_embeds_can_be_trained_on(base: BaseModel) -> None:
    assert not encode_prompts(base, ["a cat"]).prompt_embeds.is_inference()


def test_rows_pick_prompts_in_order(base: BaseModel) -> None:
    embeds = encode_prompts(base, PROMPTS)
    picked = embeds.rows([1, 0, 1])
    assert torch.equal(picked.prompt_embeds[2], embeds.prompt_embeds[1])
    assert torch.equal(picked.pooled_prompt_embeds[1], embeds.pooled_prompt_embeds[0])
    assert len(embeds.row(0)) == 1


def test_packing_and_ids_equal_the_pipelines() -> None:
    x = torch.randn(2, 16, 8, 12)
    assert torch.equal(latents.pack(x), FluxPipeline._pack_latents(x, 2, 16, 8, 12))
    assert torch.equal(latents.unpack(latents.pack(x), 8, 12), x)
    assert torch.equal(latents.image_ids(8, 12), FluxPipeline._prepare_latent_image_ids(2, 4, 6, "cpu", torch.float32))
    assert latents.image_ids(8, 12, first=1)[:, 0].tolist() == [1.0] * 24


def test_latents_are_the_normalised_mean(base: BaseModel) -> None:
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    config = base.vae.config
    expected = (base.vae.encode(pixels).latent_dist.mean - config.shift_factor) * config.scaling_factor
    assert torch.allclose(latents.encode_images(base, pixels), expected)


def test_decoding_gives_the_pipelines_own_pixels(base: BaseModel) -> None:
    pipeline = base.pipeline()
    call = {"prompt": "a cat", "height": 32, "width": 32, "num_inference_steps": 2, "max_sequence_length": 32}
    tokens = pipeline(**call, generator=torch.Generator().manual_seed(3), output_type="latent").images
    (expected,) = pipeline(**call, generator=torch.Generator().manual_seed(3)).images
    (ours,) = latents.to_images(latents.decode_latents(base, latents.unpack(tokens, 4, 4)))
    assert ours.tobytes() == expected.tobytes()


def test_pictures_survive_the_way_to_pixels_and_back() -> None:
    noise = (torch.rand(8, 8, 3) * 255).to(torch.uint8).numpy()
    image = Image.fromarray(noise)
    pixels = latents.to_pixels([image])
    assert pixels.shape == (1, 3, 8, 8)
    assert latents.to_images(pixels)[0].tobytes() == image.tobytes()
