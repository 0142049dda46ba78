import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.unit.trainer.fakes import FakeIdentity, photo
from trainer.bench import Scores
from trainer.selection import Candidate, Reals, Selection, _Scale, choose, judge, prompts_for, validation_prompts

SCALE = _Scale(base=0.2, real=0.8, fidelity=0.3)


def candidate(step: int, *each: float) -> Candidate:
    return Candidate(step, Path(f"{step}"), 0.5, 0.5, 0.3, 1.0, 0.0, [], torch.tensor(each))


def test_the_best_is_taken_where_it_is_clearly_better() -> None:
    assert choose([candidate(100, 0.4, 0.5, 0.4), candidate(200, 0.7, 0.8, 0.7)]).step == 200


def test_of_equals_the_earliest_is_taken() -> None:
    close = [candidate(100, 0.70, 0.62, 0.75), candidate(150, 0.60, 0.82, 0.66), candidate(200, 0.72, 0.63, 0.76)]
    assert choose(close).step == 150 or choose(close).step == 100
    assert choose([candidate(100, 0.7, 0.7), candidate(200, 0.7, 0.7)]).step == 100


def test_small_but_steady_gains_count() -> None:
    """Pairs share prompt and seed: a gain on every picture is no accident, however far the pictures differ from one another."""
    assert choose([candidate(100, 0.1, 0.5, 0.9), candidate(200, 0.15, 0.55, 0.95)]).step == 200


def reals(count: int = 4, held_out: int = 2) -> Reals:
    photos = [photo(n) for n in range(count + held_out)]
    embeds = FakeIdentity().embed([p.image for p in photos])
    return Reals(photos[:count], embeds[:count], embeds[count:])


def judged(shows: str, fidelity: float, scale: _Scale = SCALE) -> Candidate:
    images = [photo(n, shows).image for n in range(20, 24)]
    return judge_images(images, fidelity, reals(), scale)


def judge_images(images: list[Image.Image], fidelity: float, seen: Reals, scale: _Scale = SCALE) -> Candidate:
    return judge(1, Path("x"), images, Scores(FakeIdentity().embed(images), torch.full((4,), fidelity)), seen, scale)


def test_likeness_fidelity_and_leaks_multiply() -> None:
    own = judged("miso", 0.3)
    stranger = judged("rex", 0.3)
    deaf = judged("miso", 0.15)
    assert own.normalised == 1.0 and stranger.normalised == 0.0
    assert deaf.score == pytest.approx(own.score / 2)
    assert deaf.fidelity_kept == pytest.approx(0.5)


def test_prompt_fidelity_above_the_bases_earns_nothing() -> None:
    plain, better = (judged("miso", f).score for f in (0.3, 0.6))
    assert plain == pytest.approx(better)


def test_copies_of_photos_are_worth_nothing() -> None:
    seen = reals()
    leaked = judge_images([p.image for p in seen.photos], 0.3, seen)
    assert leaked.leak_rate == 1.0 and leaked.score == 0.0


def test_the_ceiling_is_what_held_out_photos_score_or_each_against_the_rest() -> None:
    with_held_out, without = reals(4, 2), reals(4, 0)
    assert with_held_out.ceiling == pytest.approx(float((with_held_out.held_out @ with_held_out.embeds.T).mean()))
    assert 0.9 < without.ceiling < 1.0


def test_a_subject_that_the_encoder_cannot_tell_gets_no_normalised_figure() -> None:
    blind = judged("miso", 0.3, _Scale(base=0.9, real=0.9, fidelity=0.3))
    assert math.isnan(blind.normalised) and not math.isnan(blind.score)
    scores = Selection(blind, [blind], 0.9, 0.3, 0.9).scores()
    assert scores["likeness"]["normalised"] is None


def test_prompts_cycle_and_name_the_subject() -> None:
    prompts = prompts_for("zokzex cat", len(validation_prompts()) + 1)
    assert prompts[0] == prompts[-1]
    assert all("zokzex cat" in prompt and "{" not in prompt for prompt in prompts)
