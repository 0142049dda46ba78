import dataclasses
from collections import Counter

import torch

from trainer.draws import DrawPlan, generator

PLAN = DrawPlan(seed=3, shapes=((4, 4, 4),) * 5, batch_size=2, caption_dropout=0.3)


def test_a_draw_depends_on_nothing_but_seed_and_number() -> None:
    first, again, other = PLAN.draw(7), PLAN.draw(7), PLAN.draw(8)
    assert first.indices == again.indices and first.dropped == again.dropped
    assert torch.equal(first.noise, again.noise) and torch.equal(first.sigmas, again.sigmas)
    assert not torch.equal(first.noise, other.noise)


def test_every_photo_comes_once_an_epoch_in_a_new_order() -> None:
    seen = [index for number in range(10) for index in PLAN.draw(number).indices]  # 20 places: four epochs of five
    epochs = [seen[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_processes_share_one_batch_whatever_their_number() -> None:
    plan = DrawPlan(seed=3, shapes=((4, 4, 4),) * 5, batch_size=4)
    whole = plan.draw(0)
    shares = [whole.share(rank, 2) for rank in range(2)]
    assert Counter(shares[0].indices + shares[1].indices) == Counter(whole.indices)
    assert torch.equal(torch.stack([shares[0].noise, shares[1].noise], 1).flatten(0, 1), whole.noise)


def test_captions_are_dropped_at_the_asked_rate() -> None:
    dropped = [flag for number in range(500) for flag in PLAN.draw(number).dropped]
    assert 0.25 < sum(dropped) / len(dropped) < 0.35


def test_purposes_do_not_share_randomness() -> None:
    assert not torch.equal(torch.randn(4, generator=generator(0, "batch", 1)), torch.randn(4, generator=generator(0, "order", 1)))


MIXED = DrawPlan(seed=3, shapes=((4, 4, 4), (4, 2, 6), (4, 4, 4), (4, 6, 2), (4, 4, 4)), batch_size=2)


def test_a_batch_is_of_one_shape_and_every_photo_still_comes_equally_often() -> None:
    seen: Counter[int] = Counter()
    for number in range(15):  # three cycles of five batches
        draw = MIXED.draw(number)
        assert {MIXED.shapes[index] for index in draw.indices} == {tuple(draw.noise.shape[1:])}
        seen.update(draw.indices)
    assert set(seen.values()) == {6}


def test_noise_levels_are_shifted_by_the_batchs_own_shape() -> None:
    plan = dataclasses.replace(MIXED, shift=lambda shape: 1.0 if shape == (4, 4, 4) else 0.0)
    for number in range(10):
        shifted, plain = plan.draw(number), MIXED.draw(number)
        assert torch.equal(shifted.sigmas, plain.sigmas) == (tuple(plain.noise.shape[1:]) != (4, 4, 4))
