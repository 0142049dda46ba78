import pytest
import torch

from lab.figures import Reals, foreign_figures, subject_figures
from tests.unit.lab.conftest import photo

AXIS = torch.tensor([[1.0, 0.0, 0.0]])


def reals(ceiling=0.8, photos=4):
    held_out = torch.tensor([[ceiling, 0.0, (1 - ceiling**2) ** 0.5]])
    return Reals([photo(n) for n in range(photos)], AXIS.repeat(photos, 1), held_out)


def test_base_is_0_held_out_photos_are_1_and_each_picture_is_clipped(judged):
    figures = subject_figures(reals(), judged([0.1, 0.3]), [judged([0.5, 0.8]), judged([0.1, 0.9])])["likeness"]
    assert (figures["base"], figures["real"]) == pytest.approx((0.2, 0.8))
    assert figures["adapter"] == pytest.approx(0.575)
    assert figures["each"] == [[0.5, 1.0], [0.0, 1.0]]
    assert figures["normalised"] == pytest.approx(0.625)
    assert figures["low"] <= figures["normalised"] <= figures["high"]


def test_pictures_that_resemble_only_what_was_learned_fall_behind_at_the_held_out_photos(judged):
    figures = subject_figures(reals(), judged([0.0, 0.1]), [judged([0.8, 0.9])])["likeness"]
    assert figures["normalised"] > 0.9
    assert figures["to_held_out"] < figures["normalised"]


def test_prompt_fidelity_is_kept_or_lost(judged):
    figures = subject_figures(reals(), judged([0.1], fidelity=0.3), [judged([0.7], fidelity=0.24)])
    assert figures["prompt_fidelity"] == pytest.approx({"base": 0.3, "adapter": 0.24, "ratio": 0.8})


def test_a_repeated_photo_is_a_leak(judged):
    known = reals()
    pictures = judged([1.0, 0.99], images=[known.photos[2], photo(77)])
    assert subject_figures(known, judged([0.1, 0.1]), [pictures])["leak"]["rate"] == 0.5


def test_a_foreign_adapter_is_measured_as_if_it_were_the_subjects(judged):
    figures = foreign_figures(reals(), judged([0.2, 0.2]), judged([0.26, 0.14]))
    assert figures == pytest.approx({"likeness": 0.2, "normalised": 0.05})


def test_an_encoder_that_cannot_tell_gives_none_and_not_a_number(judged):
    figures = subject_figures(reals(ceiling=0.1), judged([0.5]), [judged([0.7])])["likeness"]
    assert figures["normalised"] is None
    assert figures["each"] == [[None]]
