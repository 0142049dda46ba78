import copy
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from core.settings import Settings
from diffusion.devices import has_fp8
from diffusion.fp8 import Fp8Linear, quantise_rows, scaled_product
from diffusion.loading import BaseModel, load_base
from diffusion.lora_slots import LoraSlots
from diffusion.nf4 import Nf4Linear
from diffusion.precision import FP8, NF4, Precision
from diffusion.quantise import quantise, weight_bytes
from diffusion.slot_training import SlotTraining
from diffusion.text import encode_prompts

CPU = torch.device("cpu")
KINDS = [(Fp8Linear, 0.04), (Nf4Linear, 0.11)]


def random_linear(dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    linear = nn.Linear(128, 96).to(dtype).requires_grad_(False)
    linear.weight.mul_(torch.logspace(-2, 1, 96).unsqueeze(1))  # rows of very different size
    return linear


def relative(value: torch.Tensor, reference: torch.Tensor) -> float:
    return float((value.float() - reference.float()).norm() / reference.float().norm())


def test_rows_are_rounded_to_e4m3_of_their_own_scale() -> None:
    x = torch.tensor([[448.0, 17.0, -3.0], [4.48e-9, 1.7e-10, -3e-11], [0.0, 0.0, 0.0]])
    fp8, scale = quantise_rows(x)
    assert fp8.float()[0].tolist() == [448.0, 16.0, -3.0]  # 17 lies between 16 and 18; ties go to even
    assert torch.equal(fp8[0].float(), fp8[1].float()) and not fp8[2].float().any()
    assert torch.allclose(scale, torch.tensor([[1.0], [1e-11], [1e-30]]), rtol=1e-5)


@pytest.mark.parametrize("transposed", [True, False])
def test_an_fp8_layer_multiplies_rounded_inputs_with_rounded_weights(transposed: bool) -> None:
    linear = random_linear()
    layer = Fp8Linear(linear, transposed=transposed)
    x = torch.randn(5, 128, requires_grad=True)
    fp8, scale = quantise_rows(x.detach())
    expected = (fp8.double() * scale.double()) @ layer.dequantised().double().t() + linear.bias.double()
    y = layer(x)
    assert torch.allclose(y.double(), expected, rtol=1e-4, atol=1e-4)
    seed = torch.randn(5, 96)
    y.backward(seed)
    fp8, scale = quantise_rows(seed * layer.scale.t())
    assert torch.allclose(x.grad.double(), scale.double() * (fp8.double() @ layer.fp8.double()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "bound"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_and_input_gradients_are_near_the_wide_ones(kind: type, bound: float, dtype: torch.dtype) -> None:
    linear = random_linear(dtype)
    layer = kind(linear)
    x = torch.randn(2, 7, 128, dtype=dtype)
    seed = torch.randn(2, 7, 96, dtype=dtype)
    results = []
    for module in (linear, layer):
        inputs = x.clone().requires_grad_()
        y = module(inputs)
        y.backward(seed)
        results.append((y.detach(), inputs.grad))
    (y, gradient), (y_q, gradient_q) = results
    assert y_q.dtype == dtype and y_q.shape == y.shape
    assert 1e-3 < relative(y_q, y) < bound and 1e-3 < relative(gradient_q, gradient) < bound


def test_products_of_rounded_rows_are_near() -> None:
    a, b = torch.randn(5, 32), torch.randn(48, 32)
    (qa, sa), (qb, sb) = quantise_rows(a), quantise_rows(b)
    assert relative(scaled_product(qa, sa, qb, sb.t(), None, torch.float32, False), a @ b.t()) < 0.06


@pytest.mark.gpu
@pytest.mark.skipif(not has_fp8(torch.device("cuda" if torch.cuda.is_available() else "cpu")), reason="needs fp8 matrix units")
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("rows", [1, 77, 512])
def test_fp8_matrix_units_give_what_the_reference_gives(transposed: bool, rows: int) -> None:
    layer = Fp8Linear(random_linear(torch.bfloat16).cuda(), transposed=transposed)
    assert layer.native
    x, seed = (torch.randn(rows, size, device="cuda", dtype=torch.bfloat16) for size in (128, 96))
    results = []
    for native in (True, False):
        layer.native = native
        inputs = x.clone().requires_grad_()
        y = torch.compile(layer, fullgraph=True, dynamic=False)(inputs) if native else layer(inputs)
        y.backward(seed)
        results.append((y.detach(), inputs.grad))
    (y, gradient), (y_reference, gradient_reference) = results
    assert relative(y, y_reference) < 0.01 and relative(gradient, gradient_reference) < 0.01


@pytest.fixture(scope="module")
def miniature() -> BaseModel:
    return load_base(Settings().base_model_path, precision="fp32", device="cpu")


def weights_on(miniature: BaseModel, precision: Precision) -> FluxTransformer2DModel:
    transformer = copy.deepcopy(miniature.transformer)
    quantise(transformer, precision, CPU)
    return transformer


def step(base: BaseModel, transformer: FluxTransformer2DModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Prediction, and the gradient of a started adapter's B, of one step."""
    slots = LoraSlots(transformer, base.family.lora_spec("blocks", rank=4, alpha=4), dtype=torch.float32)
    slots.start(0, seed=0)
    training = SlotTraining(slots)
    text = encode_prompts(base, ["a photo of a cat on a sofa"])
    tokens = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
    predicted = base.family.predict(transformer, tokens, base.family.image_ids(16, 16), text, torch.tensor([0.5]), 1.0)
    (predicted * torch.randn(predicted.shape, generator=torch.Generator().manual_seed(1))).mean().backward()
    training.collect()
    return predicted.detach(), training.gradients[0]


@pytest.mark.parametrize(("precision", "bounds"), [(FP8, (0.1, 0.15)), (NF4, (0.25, 0.4))])
def test_the_miniature_learns_over_a_quantised_base(miniature: BaseModel, precision: Precision, bounds: tuple[float, float]) -> None:
    wide = step(miniature, copy.deepcopy(miniature.transformer))
    held = step(miniature, weights_on(miniature, precision))
    for value, reference, bound in zip(held, wide, bounds, strict=True):
        assert relative(value, reference) < bound


def test_what_is_quantised_and_what_is_not(miniature: BaseModel) -> None:
    fp8, nf4 = weights_on(miniature, FP8), weights_on(miniature, NF4)
    assert type(fp8.transformer_blocks[0].attn.to_q) is Fp8Linear and type(nf4.transformer_blocks[0].attn.to_q) is Nf4Linear
    assert type(fp8.transformer_blocks[0].norm1.linear) is nn.Linear and type(nf4.transformer_blocks[0].norm1.linear) is Nf4Linear
    for transformer in (fp8, nf4):
        assert type(transformer.proj_out) is type(transformer.x_embedder) is type(transformer.norm_out.linear) is nn.Linear
    wide = weight_bytes(miniature.transformer) / 4  # values
    assert weight_bytes(nf4) < 0.7 * wide and weight_bytes(fp8) < 1.9 * wide  # the miniature's modulations are a large share
    names = miniature.family.lora_modules(miniature.transformer, "blocks")
    assert names == miniature.family.lora_modules(fp8, "blocks") == miniature.family.lora_modules(nf4, "blocks")


def test_layers_that_do_not_fit_stay_wide(tiny_folder: Path) -> None:
    assert not Nf4Linear.fits(nn.Linear(48, 64)) and Nf4Linear.fits(nn.Linear(64, 48))
    assert not Fp8Linear.fits(nn.Linear(24, 64)) and not Fp8Linear.fits(nn.Linear(64, 24)) and Fp8Linear.fits(nn.Linear(48, 16))
    base = load_base(tiny_folder, precision="nf4", device="cpu")
    assert type(base.transformer.transformer_blocks[0].attn.to_q) is nn.Linear


@pytest.mark.parametrize("precision", ["fp8", "nf4"])
def test_a_quantised_base_renders(precision: str) -> None:
    base = load_base(Settings().base_model_path, precision=precision, device="cpu")
    assert base.precision.name == precision and base.dtype is torch.bfloat16
    image = base.pipeline()("a photo of a cat", height=64, width=64, num_inference_steps=2, max_sequence_length=64).images[0]
    assert image.getextrema()[0][0] < image.getextrema()[0][1]


@pytest.mark.parametrize("backward", [True, False])
def test_who_does_not_train_holds_weights_once(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, backward: bool) -> None:
    monkeypatch.setattr("diffusion.loading.room_for_both_orders", lambda device, weight_bytes: True)
    base = load_base(tiny_folder, precision="fp8", device="cpu", backward=backward)
    layers = [layer for layer in base.transformer.modules() if isinstance(layer, Fp8Linear)]
    assert layers and all((layer.fp8_t is not None) == backward for layer in layers)
