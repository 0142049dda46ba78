import pytest
import torch

from metrics.fidelity import kept, prompt_fidelity


class Paired:
    """Stands for a text-image encoder: picture i is a number, and fits prompt i by that much."""

    def similarity(self, images, texts):
        return torch.tensor(images)


def test_one_figure_a_picture():
    assert prompt_fidelity(Paired(), [0.25, 0.5], ["a", "b"]) == [0.25, 0.5]
    with pytest.raises(ValueError, match="2 pictures but 1"):
        prompt_fidelity(Paired(), [0.25, 0.5], ["a"])


def test_kept_is_the_share_of_the_base_model():
    assert kept(0.27, 0.30) == pytest.approx(0.9)
    with pytest.raises(ValueError, match="does not fit"):
        kept(0.27, 0.0)
