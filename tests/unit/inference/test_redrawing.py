"""Pictures that are not like their subject are drawn again; the most alike of all tries is kept."""

import pytest
from PIL import Image

from inference import pipeline
from inference.redrawing import Usual, least_likeness, other_seeds, redraw
from inference.requests import SEED_LIMIT, RenderRequest
from inference.scoring import Picture
from tests.unit.inference.test_pipeline import card, images, job, run


def picture(seed: int, likeness: float | None) -> Picture:
    return Picture(seed, Image.new("RGB", (1, 1)), likeness)


def tries(*rounds):
    """Answers a round's pictures, and notes how many were asked for."""
    asked = []

    def draw(number, count):
        asked.append((number, count))
        return rounds[number - 1]

    return draw, asked


def test_only_the_unlike_are_drawn_again_and_only_a_better_one_replaces_them() -> None:
    draw, asked = tries([picture(20, 0.7), picture(21, 0.1)])
    best, count = redraw([picture(10, 0.9), picture(11, 0.3), picture(12, 0.2)], 0.5, 1, draw)
    assert [one.seed for one in best] == [10, 20, 12]
    assert (asked, count) == ([(1, 2)], 2)


def test_the_tries_end_when_all_are_alike_or_the_rounds_are_used_up() -> None:
    draw, asked = tries([picture(20, 0.4)], [picture(30, 0.8)], [])
    best, count = redraw([picture(10, 0.3)], 0.5, 5, draw)
    assert [one.seed for one in best] == [30] and count == 2
    assert asked == [(1, 1), (2, 1)]
    draw, asked = tries([picture(20, 0.1)])
    assert redraw([picture(10, 0.3)], 0.5, 1, draw)[0][0].seed == 10 and asked == [(1, 1)]


def test_what_cannot_be_judged_or_may_stay_is_left_alone() -> None:
    draw, asked = tries()
    pictures = [picture(10, None), picture(11, 0.5), picture(12, 0.0)]
    assert redraw(pictures[:2], 0.5, 3, draw) == (pictures[:2], 0)
    assert redraw(pictures, 0.0, 3, draw) == (pictures, 0) and redraw(pictures, 0.5, 0, draw) == (pictures, 0)
    assert asked == []


def test_a_try_that_the_safety_check_refuses_changes_nothing() -> None:
    draw, _ = tries([None])
    first = picture(10, 0.3)
    assert redraw([first], 0.5, 1, draw) == ([first], 1)


@pytest.mark.parametrize(("own", "expected"), [(None, 0.5), (1.0, 0.5), (0.5, 0.3), (-0.2, 0.0)])
def test_of_a_weak_adapter_less_is_expected(own: float | None, expected: float) -> None:
    assert least_likeness(0.5, {"scores": {"likeness": {"normalised": own}}}) == pytest.approx(expected)
    assert least_likeness(0.5, {}) == 0.5


def test_of_a_style_that_hides_who_it_is_less_is_expected_once_that_is_known() -> None:
    usual = Usual()
    usual.note("stained-glass", [picture(n, 0.4) for n in range(7)] + [picture(8, None)])
    assert usual.least("stained-glass", 0.5) == 0.5
    usual.note("stained-glass", [picture(9, 0.4)])
    assert usual.least("stained-glass", 0.5) == pytest.approx(0.24)
    assert usual.least("oil-painting", 0.5) == usual.least(None, 0.5) == 0.5
    usual.note("oil-painting", [picture(n, 0.9) for n in range(9)])
    assert usual.least("oil-painting", 0.5) == 0.5 and usual.least("oil-painting", 0.0) == 0.0
    usual.note("stained-glass", [picture(n, 0.9) for n in range(64)])
    assert usual.least("stained-glass", 0.5) == 0.5, "the old ones are forgotten"
    usual.note(None, [picture(n, 0.1) for n in range(9)])
    assert usual.least(None, 0.5) == 0.5


def test_a_worker_learns_what_is_usual_from_first_tries(state, shelf, monkeypatch) -> None:
    monkeypatch.setattr(pipeline, "score_likeness", lambda drawn, card, encoder: [0.3] * len(drawn))
    adapter, redrawn = shelf.put(1, card(state)), []
    for _ in range(5):
        _, job_id = shelf.portrait(adapter, style="neon", count=2, redraw_below=0.5)
        assert run(state, job_id) == "succeeded"
        redrawn.append(job(state, job_id).metrics.get("redrawn"))
    assert redrawn == [2, 2, 2, 2, None]


def test_no_seed_comes_twice() -> None:
    request = RenderRequest("a cat", seed=5, count=3)
    seeds = [*request.seeds, *other_seeds(request, 1, 2).seeds, *other_seeds(request, 2, 3).seeds]
    assert len(set(seeds)) == len(seeds)
    assert other_seeds(RenderRequest("a cat", seed=SEED_LIMIT - 64, count=3), 1, 1).seed == 3


def test_a_portrait_is_drawn_again_and_says_so(state, shelf, make_adapter, monkeypatch) -> None:
    """Seeds 11 and 12 are asked for; 12 is unlike, so 13 is tried."""
    adapter = shelf.put(1, card(state))
    likenesses = {11: 0.9, 12: 0.2, 13: 0.8}
    by_picture = {
        state.engine.render(RenderRequest("a photo of ohwx cat", seed=seed, num_inference_steps=2), make_adapter(1))[0].tobytes(): value
        for seed, value in likenesses.items()
    }
    monkeypatch.setattr(pipeline, "score_likeness", lambda drawn, card, encoder: [by_picture[one.tobytes()] for one in drawn])
    portrait_id, job_id = shelf.portrait(adapter, count=2, redraw_below=0.5)
    assert run(state, job_id) == "succeeded"
    rows = images(state, portrait_id)
    assert [(row.n, row.seed, row.likeness) for row in rows] == [(0, 11, 0.9), (1, 13, 0.8)]
    metrics = job(state, job_id).metrics
    assert metrics["redrawn"] == 1 and metrics["images"] == 2
    assert metrics["likeness"] == pytest.approx(0.85)


def test_a_portrait_stays_as_it_came_where_its_row_says_so(state, shelf, monkeypatch) -> None:
    monkeypatch.setattr(pipeline, "score_likeness", lambda drawn, card, encoder: [0.0] * len(drawn))
    portrait_id, job_id = shelf.portrait(shelf.put(1, card(state)))
    assert run(state, job_id) == "succeeded"
    assert [row.seed for row in images(state, portrait_id)] == [11]
    assert "redrawn" not in job(state, job_id).metrics
