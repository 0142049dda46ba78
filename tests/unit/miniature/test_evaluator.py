"""How the evaluator is taught: what it sees, and how its report counts."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from miniature import world
from miniature.teach.corpus import Corpus
from miniature.teach.evaluator import GROUP, jostle, retrieval, shown, teach

SCENES = 2


def noise(identities: int) -> Corpus:
    draw = torch.Generator().manual_seed(0)
    count = identities * SCENES
    return Corpus(
        pictures=torch.randint(0, 256, (count, 3, 256, 256), dtype=torch.uint8, generator=draw),
        factors=torch.rand(count, 22, generator=draw),
        subject=torch.zeros(count, 16, 16, dtype=torch.bfloat16),
        kind=torch.zeros(count, dtype=torch.long),
        scenes=[world.Scene()] * count,
        scenes_each=SCENES,
    )


def test_every_second_picture_is_shown_as_the_base_painted_it_in_part_of_the_cases():
    drawn = noise(GROUP)
    painted = torch.zeros_like(drawn.pictures[::2])
    rows = torch.arange(len(drawn)).repeat(8)
    blank = (shown(drawn, painted, rows) == 0).flatten(1).all(1)
    assert not blank[rows % 2 == 1].any()
    assert 0.4 < float(blank[rows % 2 == 0].float().mean()) < 0.95


def test_pictures_are_moved_and_stay_in_range():
    torch.manual_seed(0)
    pixels = torch.zeros(6, 3, 64, 64)
    pixels[:, :, 28:36, 28:36] = 1
    moved = jostle(pixels)
    assert moved.shape == pixels.shape
    assert moved.abs().max() < 2
    assert len({int(picture[0].flatten().argmax()) for picture in moved}) > 3


def test_a_step_of_teaching_gives_a_network_of_unit_vectors_to_be():
    drawn = noise(GROUP)
    model = teach(drawn, drawn.pictures[::2], minutes=5, identities=GROUP, each=SCENES, max_steps=1)
    assert not model.training
    assert model(pixel_values=torch.zeros(2, 3, 160, 160)).logits.shape == (2, model.config.num_labels)


def test_retrieval_never_compares_a_scene_with_itself():
    who = normalize(torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(1)), dim=-1).expand(3, 4, 8)
    assert retrieval(who, who) == 1
    each_its_own = torch.eye(12).view(3, 4, 12)  # each picture looks like nothing but itself
    assert retrieval(each_its_own, each_its_own) <= 1 / 3 + 1e-6
    assert retrieval(who[[1, 2, 0]], who) == 0
