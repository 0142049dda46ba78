from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel

from diffusion import compiled
from diffusion.checkpointing import activation_bytes, blocks_to_checkpoint, set_checkpointing
from diffusion.loading import BaseModel, load_base
from diffusion.lora_slots import LoraSlots
from diffusion.slot_training import SlotTraining
from diffusion.text import PromptEmbeds
from tests.tiny import build_tiny_flux

TEXT = 5


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[BaseModel]:
    torch._dynamo.reset()
    yield load_base(build_tiny_flux(tmp_path / "flux"), precision="fp32", device="cpu")
    torch._dynamo.reset()


class Worker:
    """A warm worker's training and rendering, reduced to the calls that a compiler sees."""

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        self.slots = LoraSlots(base.transformer, base.family.lora_spec("blocks", rank=4, alpha=4), count=2, dtype=torch.float32)
        self.training = SlotTraining(self.slots)

    def predict(self, batch: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randn(batch, height * width, 16, generator=generator)
        text = PromptEmbeds(
            torch.randn(batch, TEXT, 16, generator=generator), torch.randn(batch, 16, generator=generator), torch.zeros(TEXT, 3)
        )
        ids = self.base.family.image_ids(2 * height, 2 * width)
        return self.base.family.predict(self.base.transformer, tokens, ids, text, torch.full((batch,), 0.5), 1.0)

    def job(self, seed: int, customers: int, sides: tuple[int, int]) -> torch.Tensor:
        """Trains new adapters for two steps on one bucket, then renders with one of them; returns the gradients."""
        for slot in range(customers):
            self.slots.start(slot, seed=seed + slot)
            self.slots.set_scale(slot, 1.0)
            self.training.adopt(slot)
        self.slots.use(count=customers)
        for _ in range(2):
            self.training.zero_gradients()
            self.predict(customers, *sides).pow(2).mean().backward()
            self.training.collect()
        self.slots.set_scale(0, 0.5 + 0.01 * seed)
        self.slots.use(rows=[0])
        with torch.no_grad():
            self.predict(1, *sides)
        return self.training.gradients.clone()


def test_no_job_after_the_first_of_its_kind_compiles_anything(fresh: BaseModel) -> None:
    compiled.prepare(fresh.transformer, backend="eager")
    compiled.prepare(fresh.transformer, backend="eager")
    worker = Worker(fresh)
    kinds = [(1, (2, 2)), (1, (2, 3)), (2, (2, 2))]
    for kind in kinds:
        worker.job(0, *kind)
    warm = compiled.graph_count()
    assert warm > 0
    for number in range(20):
        worker.job(number, *kinds[number % len(kinds)])
    assert compiled.graph_count() == warm


def test_the_counter_would_notice(fresh: BaseModel) -> None:
    """What the arrangement avoids does compile: another mode of the modules, wrappers that come off."""
    compiled.prepare(fresh.transformer, backend="eager")
    worker = Worker(fresh)
    worker.job(0, 1, (2, 2))
    warm = compiled.graph_count()
    fresh.transformer.train()
    worker.job(1, 1, (2, 2))
    assert compiled.graph_count() > warm


@pytest.mark.parametrize("checkpointed", [0, 1, 2])
def test_compiled_blocks_give_the_same_gradients_with_and_without_checkpointing(fresh: BaseModel, checkpointed: int) -> None:
    worker = Worker(fresh)
    eager = worker.job(3, 2, (2, 2))
    compiled.prepare(fresh.transformer, backend="aot_eager")
    set_checkpointing(fresh.transformer, checkpointed)
    assert torch.allclose(worker.job(3, 2, (2, 2)), eager, rtol=1e-4, atol=1e-7)
    assert eager.norm() > 0
    warm = compiled.graph_count()
    set_checkpointing(fresh.transformer, 2 - checkpointed)
    worker.job(4, 2, (2, 2))
    assert compiled.graph_count() == warm


def test_released_blocks_are_not_compiled(fresh: BaseModel) -> None:
    compiled.prepare(fresh.transformer, backend="eager")
    assert compiled.is_prepared(fresh.transformer)
    compiled.release(fresh.transformer)
    assert not compiled.is_prepared(fresh.transformer)


def test_only_as_many_blocks_are_checkpointed_as_memory_asks_for(fresh: BaseModel) -> None:
    transformer = fresh.transformer
    calls: list[int] = []
    for block in compiled.blocks(transformer):
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    worker = Worker(fresh)
    for count, expected in ((0, 2), (1, 3), (2, 4), (9, 4)):
        set_checkpointing(transformer, count)
        calls.clear()
        worker.predict(1, 2, 2).sum().backward()
        assert len(calls) == expected
    needed = activation_bytes(transformer, 1000)
    assert blocks_to_checkpoint(transformer, 1000, needed) == 0
    assert blocks_to_checkpoint(transformer, 1000, needed * 2 // 3) == 1
    assert blocks_to_checkpoint(transformer, 1000, 0) == 2


@pytest.mark.parametrize(
    ("kind", "layers", "measured_gib"), [(FluxTransformer2DModel, (19, 38), 20.5), (Flux2Transformer2DModel, (5, 20), 11.8)]
)
def test_a_step_is_reckoned_a_little_larger_than_it_was_measured(kind: type, layers: tuple[int, int], measured_gib: float) -> None:
    """At 1024² with 128 tokens of text, on one H200: less would run out of memory, much more would checkpoint for nothing."""
    with torch.device("meta"):
        transformer = kind(num_layers=layers[0], num_single_layers=layers[1], attention_head_dim=128, num_attention_heads=24)
    assert 1.05 < activation_bytes(transformer, 4096 + 128) / 2**30 / measured_gib < 1.25


def test_compile_caches_go_where_they_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    compiled.keep_on_disk(tmp_path / "cache")
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    assert cache_dir() == str(tmp_path / "cache")
