"""One process's place as accelerate tells it; two processes: ``tests/integration/trainer/test_two_processes.py``."""

import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed
from accelerate.state import AcceleratorState

from core.errors import UserError
from diffusion.loading import BaseModel, load_base
from tests.unit.trainer.test_fit import same
from trainer import world
from trainer.caches import TrainingCache
from trainer.checkpoints import CheckpointFolder
from trainer.fit import fit
from trainer.recipe import Recipe
from trainer.world import World


@pytest.fixture(autouse=True)
def own_state() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def half(base: BaseModel) -> BaseModel:
    return load_base(base.folder, precision="bf16", device="cpu")


def test_alone_it_is_the_main_one_and_exchanges_nothing(base: BaseModel) -> None:
    alone, values = World.open(base), torch.ones(3)
    assert (alone.rank, alone.size, alone.main) == (0, 1, True)
    assert alone.mean_(values) is values and torch.equal(values, torch.ones(3))
    assert alone.accelerator.device == base.device
    alone.wait()


def test_a_process_may_fit_on_one_base_after_another(base: BaseModel, half: BaseModel) -> None:
    told = [World.open(one).as_dict() for one in (base, half, half, base)]
    assert [one["mixed_precision"] for one in told] == ["no", "bf16", "bf16", "no"]
    assert {one["processes"] for one in told} == {1}


def test_it_is_on_the_bases_gpu_whichever_that_is() -> None:
    """No GPU is touched: only what accelerate would use is asked."""
    for number in (1, 0):
        device = torch.device("cuda", number)
        assert world._accelerator(device, torch.float32).device == device
    assert world._accelerator(torch.device("cpu"), torch.float32).device == torch.device("cpu")


@pytest.fixture
def group_of_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a launcher's process finds, with nobody else in the group."""
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": 0, "OMP_NUM_THREADS": 1}.items():
        monkeypatch.setenv(name, str(value))
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("group_of_one")
def test_in_a_group_bases_may_change_but_devices_are_dealt_once(base: BaseModel, half: BaseModel) -> None:
    assert [World.open(one).as_dict()["mixed_precision"] for one in (base, half)] == ["no", "bf16"]
    assert World.open(base).accelerator.use_distributed is False and torch.distributed.is_initialized()
    with pytest.raises(UserError, match="dealt cpu") as refused:
        world._accelerator(torch.device("cuda", 0), torch.bfloat16)
    assert "LIKENESS_DEVICE=auto" in refused.value.detail


def test_a_launchers_precision_does_not_reach_the_fit(
    base: BaseModel, cache: TrainingCache, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fit(base, cache, recipe, CheckpointFolder(tmp_path / "plain", {}))
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    launched = fit(base, cache, recipe, CheckpointFolder(tmp_path / "launched", {}))
    assert same(plain[recipe.steps], launched[recipe.steps])
    assert World.open(base).accelerator.scaler is None


def test_a_prepared_optimizer_steps_as_the_plain_one_and_goes_with_its_world(base: BaseModel) -> None:
    def stepped(prepared: bool) -> tuple[torch.Tensor, dict]:
        parameter = torch.nn.Parameter(torch.linspace(-1, 1, 64))
        parameter.grad = torch.linspace(1, 3, 64)
        own = torch.optim.AdamW([parameter], lr=1e-2)
        optimizer = World.open(base).prepare(own) if prepared else own
        for _ in range(5):
            optimizer.step()
        return parameter.detach(), optimizer.state[parameter]

    (plain, kept), (ours, state) = stepped(False), stepped(True)
    assert torch.equal(plain, ours) and all(torch.equal(kept[key], state[key]) for key in kept)
    here = World.open(base)
    gone = weakref.ref(here.prepare(torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])))
    assert gone() is not None
    del here
    assert gone() is None  # else a worker's memory would fill with the optimizers of past fits


def test_nothing_of_torch_is_set_for_the_whole_process(half: BaseModel) -> None:
    """Renders share the process: neither their random numbers nor their kernels may change."""

    def settings() -> list[object]:
        return [
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_autocast_enabled("cpu"),
            torch.backends.cuda.matmul.allow_tf32,
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
        ]

    before, random = settings(), torch.get_rng_state()
    World.open(half)
    assert settings() == before and torch.equal(torch.get_rng_state(), random)
