"""What benchmarks reckon with."""

import torch

from benchmarks.floor import step_flops
from diffusion.frozen import FrozenLinear
from diffusion.loading import load_base
from diffusion.precision import FP8
from diffusion.quantise import quantise
from tests.tiny import build_tiny_flux
from trainer.recipe import Recipe
from trainer.seats import Seats


def test_the_floor_is_of_the_base_alone_however_it_is_held(tmp_path) -> None:  # type: ignore[no-untyped-def]
    base = load_base(build_tiny_flux(tmp_path / "flux"), precision="fp32", device="cpu")
    bare = step_flops(base.transformer, 16, 8)
    width, heads = 16, 2
    layers = 2 * 2 * 12 * width**2 * (16 + 8) * 2  # two blocks of 12 width² weights a token, forward and backward
    assert bare == layers + 3.5 * 4 * 24**2 * width * heads
    seats = Seats(base)
    seats.slots(Recipe.for_run(3, base))
    assert step_flops(base.transformer, 16, 8) == bare
    seats.remove()
    quantise(base.transformer, FP8, torch.device("cpu"))
    assert any(isinstance(module, FrozenLinear) for module in base.transformer.modules())
    assert step_flops(base.transformer, 16, 8) == bare
