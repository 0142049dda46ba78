import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from diffusion import schedules


@pytest.mark.parametrize("tokens", [16, 256, 1024, 4096])
def test_the_resolution_shift_is_the_pipelines(tokens: int) -> None:
    config = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True).config
    assert schedules.resolution_shift(tokens, config) == pytest.approx(calculate_shift(tokens))


def test_shifted_sigmas_are_the_schedulers() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    sigmas = torch.linspace(0.05, 1.0, 20)
    assert torch.allclose(schedules.shift_sigmas(sigmas, 0.8), scheduler.time_shift(0.8, 1.0, sigmas))


def test_a_constant_shift_is_the_same_formula() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    sigmas = torch.linspace(0.05, 1.0, 20)
    mu = schedules.resolution_shift(256, scheduler.config)
    assert torch.allclose(schedules.shift_sigmas(sigmas, mu), 3 * sigmas / (1 + 2 * sigmas))


def test_sampled_sigmas_are_logit_normal_and_move_up_with_the_shift() -> None:
    plain = schedules.sample_sigmas(20_000, torch.Generator().manual_seed(0))
    logits = torch.logit(plain.double())
    assert plain.min() > 0 and plain.max() < 1
    assert logits.mean().abs() < 0.03 and abs(logits.std() - 1) < 0.03
    shifted = schedules.sample_sigmas(20_000, torch.Generator().manual_seed(0), mu=math.log(3))
    assert torch.allclose(shifted, 3 * plain / (1 + 2 * plain), atol=1e-6)


def test_the_velocity_leads_from_any_noisy_sample_to_the_picture() -> None:
    x, noise, sigmas = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0.1, 0.5, 0.9])
    noisy = schedules.add_noise(x, noise, sigmas)
    assert torch.allclose(noisy - sigmas.view(3, 1, 1, 1) * schedules.velocity(x, noise), x, atol=1e-6)
