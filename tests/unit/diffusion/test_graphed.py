from collections.abc import Callable

import pytest
import torch

from core.settings import Settings
from diffusion import compiled
from diffusion.attention import training_attention
from diffusion.graphed import WARM_CALLS, Recorded, Tensors, recorded
from diffusion.loading import load_base
from diffusion.lora_slots import LoraSlots
from diffusion.slot_training import SlotTraining
from diffusion.text import encode_prompts


class Tape:
    """A recorder for the CPU: replays by running the work again on the tensors that were recorded, into the same result."""

    def __init__(self) -> None:
        self.recordings = 0

    def __call__(self, work: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        self.recordings += 1
        result = work()

        def replay() -> None:
            result.copy_(work())

        return replay, result


def test_every_call_computes_with_its_own_inputs_and_each_key_is_recorded_once() -> None:
    tape = Tape()
    calls: list[int] = []

    def work(inputs: Tensors) -> torch.Tensor:
        calls.append(len(inputs["x"]))
        return inputs["x"] * 2 + inputs["y"]

    run = Recorded(work, tape)
    for number in range(2 * WARM_CALLS + 4):
        size = 2 + number % 2
        x, y = torch.full((size,), float(number)), torch.ones(size)
        assert torch.equal(run(size, {"x": x, "y": y}), 2 * x + y)
    assert tape.recordings == 2
    assert torch.equal(x, torch.full((size,), float(number)))


def test_what_is_forgotten_is_recorded_anew_and_there_is_a_limit() -> None:
    tape = Tape()
    run = Recorded(lambda inputs: inputs["x"] + 1, tape, most=1)
    for key in ("a", "b"):
        for _ in range(WARM_CALLS + 2):
            assert run(key, {"x": torch.zeros(1)}).item() == 1
    assert tape.recordings == 1
    run.forget()
    for _ in range(WARM_CALLS + 1):
        run("b", {"x": torch.zeros(1)})
    assert tape.recordings == 2


def test_a_cpu_runs_the_work_as_it_is() -> None:
    run = recorded(lambda inputs: inputs["x"] + 1, torch.device("cpu"))
    assert [run("key", {"x": torch.full((1,), float(n))}).item() for n in range(WARM_CALLS + 3)] == [n + 1 for n in range(WARM_CALLS + 3)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_replayed_training_step_gives_the_gradients_of_a_plain_one() -> None:
    base = load_base(Settings().base_model_path, precision="bf16", device="cuda")
    slots = LoraSlots(base.transformer, base.family.lora_modules(base.transformer, "blocks"), rank=8, dtype=base.dtype)
    training = SlotTraining(slots)
    slots.start(0, seed=0)
    training.adopt(0)
    compiled.prepare(base.transformer)
    text, ids = encode_prompts(base, ["a cat"]), base.family.image_ids(32, 32).to(base.device, base.dtype)

    def work(inputs: Tensors) -> torch.Tensor:
        predicted = base.family.predict(base.transformer, inputs["tokens"], ids, text, inputs["sigmas"], 1.0)
        loss = (predicted.float() - inputs["target"]).pow(2).mean()
        loss.backward()
        training.collect()
        return loss.detach()

    def step(run: Callable[[Tensors], torch.Tensor], seed: int) -> torch.Tensor:
        generator = torch.Generator("cuda").manual_seed(seed)
        tokens, target = (torch.randn(1, 256, 64, device="cuda", generator=generator) for _ in range(2))
        training.zero_gradients()
        run({"tokens": tokens.bfloat16(), "target": target, "sigmas": torch.rand(1, device="cuda", generator=generator).bfloat16()})
        return training.gradients.clone()

    with training_attention(base.device):
        plain = [step(work, seed) for seed in range(6)]
        run = recorded(work, base.device)
        replayed = [step(lambda inputs: run("shape", inputs), seed) for seed in range(6)]
    for ours, theirs in zip(replayed, plain, strict=True):
        assert theirs.norm() > 0 and (ours - theirs).norm() / theirs.norm() < 1e-2
