import math

import pytest
import torch

from metrics.identity import leave_one_out, likeness, normalised

EAST, NORTH = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


def test_likeness_is_the_mean_cosine_to_all_photos():
    assert likeness(torch.stack([EAST, NORTH]), torch.stack([EAST, EAST, NORTH])).tolist() == pytest.approx([2 / 3, 1 / 3])


def test_the_ceiling_leaves_each_photo_itself_out():
    assert leave_one_out(torch.stack([EAST, EAST, NORTH])).tolist() == pytest.approx([0.5, 0.5, 0.0])
    with pytest.raises(ValueError, match="two photos"):
        leave_one_out(EAST[None])


def test_normalised_is_0_at_the_base_1_at_real_photos_and_clipped_beyond():
    assert normalised(torch.tensor([0.1, 0.2, 0.5, 0.8, 0.9]), 0.2, 0.8).tolist() == pytest.approx([0, 0, 0.5, 1, 1])
    assert float(normalised(0.5, 0.2, 0.8)) == pytest.approx(0.5)


def test_an_encoder_that_cannot_tell_the_subject_from_its_class_gives_no_score():
    assert math.isnan(float(normalised(0.5, 0.8, 0.8)))
