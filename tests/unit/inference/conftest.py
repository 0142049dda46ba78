import pytest
import torch

from diffusion import lora
from diffusion.loading import load_base
from inference.engine import Engine
from inference.slot import LoadedAdapter
from tests.tiny import build_tiny_flux


@pytest.fixture(scope="session")
def tiny_flux(tmp_path_factory):
    return build_tiny_flux(tmp_path_factory.mktemp("base") / "flux")


@pytest.fixture(scope="session")
def base(tiny_flux):
    return load_base(tiny_flux, precision="fp32", device="cpu")


@pytest.fixture
def engine(base):
    engine = Engine(base)
    yield engine
    engine.slot.clear()


@pytest.fixture(scope="session")
def make_adapter(base):
    """A random adapter that changes pictures visibly; another seed is another subject."""

    def make(seed, rank=4, target_set="blocks", dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)
        state = {}
        for module in base.family.lora_modules(base.transformer, target_set):
            layer = base.transformer.get_submodule(module)
            state[f"transformer.{module}.lora_A.weight"] = torch.randn(rank, layer.in_features, generator=generator).to(dtype)
            state[f"transformer.{module}.lora_B.weight"] = (torch.randn(layer.out_features, rank, generator=generator) * 0.3).to(dtype)
        lora.validate(state, base.transformer, base.family.lora_allowlist(base.transformer))
        return LoadedAdapter(f"ada_{seed}_{rank}_{target_set}", state)

    return make
