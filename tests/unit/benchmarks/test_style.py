"""What two passes are compared on: each picture with its own caption's kind, from the same seeds, with the adapter where it belongs."""

from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from benchmarks import mode_style_judge
from benchmarks.mode_style import KNOWN, ONE_PASS, two_pass_trial
from benchmarks.mode_style_judge import StyleSet, draw_style_set, kinds_in_turn
from core.words import Mode
from inference.requests import RenderRequest
from miniature import world
from miniature.teach import style as teaching


class Painter:
    """Renders the caption and seed as a picture's name."""

    def __init__(self) -> None:
        self.asked: list[tuple[RenderRequest, Any]] = []

    def render(self, request: RenderRequest, style: Any = None) -> list[Image.Image]:
        self.asked.append((request, style))
        image = Image.new("RGB", (8, 8))
        image.info["caption"] = request.prompt
        return [image]


class KindJudge:
    """Right where a picture's caption names the kind that it is judged by."""

    def __init__(self, pictures: StyleSet) -> None:
        self.pictures = pictures

    def measures(self, images: list[Image.Image], kinds: list[str]) -> dict[str, list[float]]:
        captions = [image.info.get("caption") for image in images]
        return {"kind": [float(caption is None or kind in caption) for caption, kind in zip(captions, kinds, strict=True)]}


def style_set(learned: int, drawn: int) -> StyleSet:
    blank = Image.new("RGB", (8, 8))
    captions = [f"a linocut of a {kind}, {n}" for n, kind in enumerate(kinds_in_turn(drawn))]
    return StyleSet("linocut", [blank] * learned, captions[:learned], [blank] * drawn, [f"{caption}, anew" for caption in captions])


@pytest.mark.parametrize("learned", [4, 6])
def test_each_picture_is_judged_by_the_kind_that_its_caption_names(learned: int) -> None:
    trial = two_pass_trial(Painter(), KindJudge(style_set(learned, 9)), SimpleNamespace(id="style:x"), KNOWN, 2, 5)  # type: ignore[arg-type]
    assert {name: row["kind"]["mean"] for name, row in trial.figures.items()} == dict.fromkeys(trial.figures, 1.0)
    assert trial.figures["one pass at 1"]["kind"]["n"] == 2 * (min(learned, 5) + 5)


def test_every_way_draws_the_same_prompts_and_seeds_and_only_the_base_goes_without_the_adapter() -> None:
    painter, adapter = Painter(), SimpleNamespace(id="style:x")
    trial = two_pass_trial(painter, KindJudge(style_set(3, 3)), adapter, KNOWN, 2, 3)  # type: ignore[arg-type]
    each = len(painter.asked) // len(ONE_PASS | KNOWN)
    runs = [painter.asked[n * each : (n + 1) * each] for n in range(len(ONE_PASS | KNOWN))]
    assert len({tuple((request.prompt, request.seed) for request, _ in run) for run in runs}) == 1
    for run in runs:
        bare = run[0][0].mode == Mode.TEXT_TO_IMAGE
        assert all(style is (None if bare else adapter) for _, style in run)
    assert len({len(row) for row in trial.pictures.values()}) == 1
    assert set(trial.differences) == {f"{two} − {one}" for two in KNOWN for one in ONE_PASS}


def test_a_known_style_is_drawn_by_the_world_with_other_subjects_to_judge_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mode_style_judge, "ANCHORS", 3)
    pictures = draw_style_set("linocut", 3)
    assert all(caption.startswith("a linocut of") for caption in pictures.learned_captions + pictures.fresh_captions)
    assert [kind in caption for kind, caption in zip(world.KINDS, pictures.learned_captions, strict=True)] == [True] * 3
    assert not {image.tobytes() for image in pictures.learned} & {image.tobytes() for image in pictures.drawn}


def test_blueprints_keep_their_own_words() -> None:
    (picture,), (caption,), _ = teaching.draw(1, teaching.FIRST_SUBJECT)
    assert caption.startswith("a blueprint of a cat")
    red, _, blue = (band.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0)) for band in picture.split())
    assert blue > red + 40  # the paper
