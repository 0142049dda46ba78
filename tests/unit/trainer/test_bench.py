import pytest

from core.errors import JobCanceled
from trainer.bench import KEPT_CLASS_WORDS, Bench
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
