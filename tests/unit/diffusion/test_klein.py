"""FLUX.2-klein at the smallest size of its real classes: everything that FLUX.1 can do, and the same as plain diffusers does it."""

from pathlib import Path

import pytest
import torch
from diffusers import Flux2KleinPipeline
from PIL import Image

from diffusion import lora
from diffusion.latents import decode_latents, encode_images, to_images, to_pixels
from diffusion.loading import BaseModel, load_base
from diffusion.lora_slots import LoraSlots
from diffusion.schedules import add_noise, velocity
from diffusion.slot_training import SlotTraining
from diffusion.text import encode_prompts
from tests.tiny_klein import build_tiny_klein

SIDE, PROMPT = 32, "a photo of a cat"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_klein(tmp_path_factory.mktemp("klein") / "base")


@pytest.fixture(scope="module")
def klein(folder: Path) -> BaseModel:
    return load_base(folder, precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Flux2KleinPipeline:
    pipeline = Flux2KleinPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def options(guidance: float = 3.0) -> dict:
    return {
        "height": SIDE,
        "width": SIDE,
        "num_inference_steps": 2,
        "guidance_scale": guidance,
        "generator": torch.Generator().manual_seed(3),
    }


def picture(seed: int = 0) -> Image.Image:
    pixels = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return to_images(pixels)[0]


def test_prompts_are_embedded_as_the_pipeline_does(klein: BaseModel, plain: Flux2KleinPipeline) -> None:
    ours = encode_prompts(klein, [PROMPT, ""])
    theirs, ids = plain.encode_prompt([PROMPT, ""])
    assert torch.equal(ours.prompt_embeds, theirs) and torch.equal(ours.text_ids, ids[0])
    assert ours.pooled_prompt_embeds.shape == (2, 0)
    tokens = klein.family.count_tokens(klein.tokenizers, PROMPT)
    other, same = encode_prompts(klein, [f"{PROMPT}, standing"]), encode_prompts(klein, [PROMPT])
    assert torch.equal(same.prompt_embeds, ours.prompt_embeds[:1])
    marks, letters = 5, f"user\n{PROMPT}\nassistant\n\n\n\n\n"  # the chat's marks are one token each, letters one each
    assert tokens == marks + len(letters)
    assert klein.family.count_tokens(klein.tokenizers, f"{PROMPT}, standing") == tokens + len(", standing")
    assert not torch.equal(other.prompt_embeds, same.prompt_embeds)


def test_pictures_become_the_tokens_that_the_pipeline_makes_of_them(klein: BaseModel, plain: Flux2KleinPipeline) -> None:
    pixels = to_pixels([picture()])
    latents = encode_images(klein, pixels)
    tokens, ids = plain.prepare_image_latents([pixels], 1, None, "cpu", torch.float32)
    assert torch.allclose(klein.family.pack(latents), tokens, atol=1e-5)
    assert torch.equal(klein.family.image_ids(4, 4, first=1), ids[0].float())
    noise, ids = plain.prepare_latents(1, 4, SIDE, SIDE, torch.float32, "cpu", torch.Generator().manual_seed(0))
    assert torch.equal(klein.family.image_ids(4, 4), ids[0].float())
    assert torch.equal(klein.family.pack(klein.family.unpack(noise, 4, 4)), noise)


def test_latents_come_back_as_what_the_vae_gave(klein: BaseModel) -> None:
    latents = torch.randn(1, 4, 4, 4)
    there_and_back = klein.family.normalise(klein.vae, klein.family.denormalise(klein.vae, latents))
    assert torch.allclose(there_and_back, latents, atol=1e-5)
    assert decode_latents(klein, latents).shape == (1, 3, SIDE, SIDE)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_our_inputs_render_the_pixels_of_the_plain_pipeline(klein: BaseModel, plain: Flux2KleinPipeline, guidance: float) -> None:
    expected = plain(prompt=PROMPT, **options(guidance)).images[0]
    inputs = klein.family.pipeline_inputs(klein, encode_prompts(klein, [PROMPT]))
    assert klein.pipeline()(**inputs, **options(guidance)).images[0].tobytes() == expected.tobytes()
    latents = klein.pipeline()(**inputs, **options(guidance), output_type="latent").images
    normalised = klein.family.pipeline_latents(klein, latents, 4, 4)
    ours, theirs = (to_pixels([image]) for image in (to_images(decode_latents(klein, normalised))[0], expected))
    assert (ours - theirs).abs().max() <= 1 / 127  # one level: normalising and back rounds


def test_guidance_does_not_fetch_the_text_encoder(klein: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = klein.family.pipeline_inputs(klein, encode_prompts(klein, [PROMPT]))
    pipeline = klein.pipeline()
    monkeypatch.setattr(pipeline.text_encoder, "forward", None)
    assert pipeline(**inputs, **options()).images


def test_a_reference_changes_the_picture(klein: BaseModel) -> None:
    inputs = klein.family.pipeline_inputs(klein, encode_prompts(klein, [PROMPT]))
    bare = klein.pipeline()(**inputs, **options()).images[0]
    given = klein.family.reference_inputs(klein, picture().resize((64, 64)), SIDE, SIDE)
    assert klein.pipeline("reference")(**inputs, **given, **options()).images[0].tobytes() != bare.tobytes()


def test_distilled_weights_render_without_guidance(tmp_path: Path) -> None:
    distilled = load_base(build_tiny_klein(tmp_path / "distilled", distilled=True), precision="fp32", device="cpu")
    inputs = distilled.family.pipeline_inputs(distilled, encode_prompts(distilled, [PROMPT]))
    assert set(inputs) == {"prompt_embeds"}
    first, second = (distilled.pipeline()(**inputs, **options(guidance)).images[0].tobytes() for guidance in (1.0, 3.0))
    assert first == second


def test_every_block_layer_can_be_a_target_and_nothing_else(klein: BaseModel) -> None:
    everything = klein.family.lora_modules(klein.transformer, "blocks")
    linear = [name for name, module in klein.transformer.named_modules() if isinstance(module, torch.nn.Linear) and "_blocks." in name]
    assert everything == linear and len(everything) == 14
    for target_set in klein.family.lora_targets:
        assert set(klein.family.lora_modules(klein.transformer, target_set)) <= set(everything)


def test_an_adapter_is_fitted_and_gives_the_same_pixels_in_plain_diffusers(klein: BaseModel, folder: Path, tmp_path: Path) -> None:
    text = encode_prompts(klein, [PROMPT])
    bare = klein.pipeline()(**klein.family.pipeline_inputs(klein, text), **options()).images[0]
    slots = LoraSlots(klein.transformer, klein.family.lora_spec("blocks", rank=4, alpha=4), dtype=torch.float32)
    losses = fit(klein, slots, steps=12)
    assert losses[-1] < losses[0]
    ours = klein.pipeline()(**klein.family.pipeline_inputs(klein, text), **options()).images[0]
    state = slots.state(slots.weights[0])
    slots.remove()
    path = lora.save(tmp_path / "adapter.safetensors", state, {})
    lora.read(path, klein.transformer, klein.family.lora_allowlist(klein.transformer))
    other = Flux2KleinPipeline.from_pretrained(folder)
    other.set_progress_bar_config(disable=True)
    other.load_lora_weights(str(path))
    theirs = other(prompt=PROMPT, **options()).images[0]
    assert theirs.tobytes() == ours.tobytes() != bare.tobytes()


def fit(klein: BaseModel, slots: LoraSlots, steps: int) -> list[float]:
    """A few steps of flow matching on one picture, noise and noise level."""
    family, training = klein.family, SlotTraining(slots)
    slots.start(0, seed=0)
    training.adopt(0)
    optimizer = torch.optim.Adam([training.parameter(0)], lr=2e-2)
    latents, text = encode_images(klein, to_pixels([picture()])), encode_prompts(klein, [PROMPT])
    noise, sigmas = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1)), torch.tensor([0.7])
    tokens, target = family.pack(add_noise(latents, noise, sigmas)), family.pack(velocity(latents, noise))
    losses = []
    for _ in range(steps):
        training.zero_gradients()
        predicted = family.predict(klein.transformer, tokens, family.image_ids(4, 4), text, sigmas, 1.0)
        loss = torch.nn.functional.mse_loss(predicted, target)
        loss.backward()
        training.collect()
        optimizer.step()
        training.publish()
        losses.append(loss.item())
    training.close()
    return losses
