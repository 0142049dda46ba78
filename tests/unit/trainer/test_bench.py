import pytest
import torch

import trainer.bench
from core.errors import JobCanceled
from diffusion.replay import SEEN_BEFORE, ReplayedSteps
from diffusion.sharing import stepped_aside
from inference.engine import Engine
from inference.requests import RenderRequest
from tests.recordings import FakeRecording
from trainer.bench import KEPT_CLASS_WORDS, Bench, may_record
from trainer.recipe import Recipe


@pytest.fixture
def recipe(bench: Bench) -> Recipe:
    return Recipe.for_run(9, bench.base)


def test_picture_i_has_seed_i_however_many_there_are(bench: Bench, recipe: Recipe) -> None:
    prompts = ["a photo of a cat"] * 5
    images = bench.render(prompts, recipe)
    assert len({image.tobytes() for image in images}) == 5
    assert bench.render(prompts[:4], recipe)[3].tobytes() == images[3].tobytes()


def test_a_render_stops_at_the_next_step(bench: Bench, recipe: Recipe) -> None:
    checks: list[int] = []

    def check() -> None:
        checks.append(1)
        raise JobCanceled

    with pytest.raises(JobCanceled):
        bench.render(["a cat"], recipe, check)
    assert len(checks) == 1


def test_baselines_are_kept_but_not_for_ever(bench: Bench, recipe: Recipe) -> None:
    own = Bench(bench.base, bench.identity, bench.text_image)
    first = own.baseline(["a cat"], recipe)
    assert own.baseline(["a cat"], recipe) is first
    own.baselines.update({(f"{n}",): first for n in range(KEPT_CLASS_WORDS)})
    own.baseline(["a dog"], recipe)
    assert len(own.baselines) == KEPT_CLASS_WORDS and ("a dog", 32, 2, 3.5) in own.baselines


def replay(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeRecording.made = FakeRecording.replays = 0
    monkeypatch.setattr(ReplayedSteps, "on", classmethod(lambda cls, base: cls(base, record=FakeRecording)))


def test_steps_that_come_again_are_replayed(bench: Bench, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    patient, prompts = recipe.model_copy(update={"validation_steps": 5}), ["a photo of a cat"] * 4
    plain = bench.render(prompts, patient)
    replay(monkeypatch)
    assert [image.tobytes() for image in bench.render(prompts, patient)] == [image.tobytes() for image in plain]
    assert (FakeRecording.made, FakeRecording.replays) == (1, 5 - SEEN_BEFORE)
    assert "forward" not in bench.base.transformer.__dict__


@pytest.mark.parametrize(("gib", "records"), [(24, False), (80, True)])
def test_a_small_card_has_no_memory_for_recordings(monkeypatch: pytest.MonkeyPatch, gib: int, records: bool) -> None:
    monkeypatch.setattr(trainer.bench, "capacity", lambda device: gib * 2**30)
    assert may_record(torch.device("cuda")) is records and may_record(torch.device("cpu"))


def test_a_guest_between_two_steps_meets_no_recording_of_the_bench(bench: Bench, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """It wears another adapter, or none."""
    patient, engine, request = recipe.model_copy(update={"validation_steps": 5}), Engine(bench.base), RenderRequest("a dog", seed=3)
    with stepped_aside(bench.base):
        alone = engine.render(request)[0].tobytes()
    slots = bench.seats.slots(recipe)
    slots.start(0, 1)
    worn = {key: matrix + 0.02 for key, matrix in slots.state(slots.weights[0]).items()}
    drawn = []

    def guest() -> None:
        with stepped_aside(bench.base):
            drawn.append(engine.render(request)[0].tobytes())

    def render() -> list[bytes]:
        with bench.wearing(worn, recipe):
            return [image.tobytes() for image in bench.render(["a photo of a cat"] * 4, patient, guest)]

    plain = render()
    replay(monkeypatch)
    assert render() == plain
    assert (FakeRecording.made, FakeRecording.replays) == (1, 5 - SEEN_BEFORE), "the guest's passes are its own"
    assert set(drawn) == {alone}
