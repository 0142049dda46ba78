"""What two passes are compared on: each picture with its own caption's kind, from the same seeds, with the adapter where it belongs."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import mode_style_judge
from benchmarks.mode_style import KNOWN, ONE_PASS, two_pass_trial
from benchmarks.mode_style_judge import StyleJudge, StyleSet, draw_style_set, kinds_in_turn
from core.words import Mode
from inference.requests import RenderRequest
from metrics.encoders import load_identity_encoder, load_text_image_encoder
from miniature import world
from miniature.teach import style as teaching
from tests.tiny_encoders import build_tiny_clip, build_tiny_dino


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
    assert trial.figures["one pass at 1"]["kind"]["n"] == 2 * 2 * min(learned, 5)


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


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> StyleJudge:
    folder = tmp_path_factory.mktemp("encoders")
    encoders = {"identity": load_identity_encoder(build_tiny_dino(folder / "dino"))}
    bench = SimpleNamespace(**encoders, text_image=load_text_image_encoder(build_tiny_clip(folder / "clip")))
    draw = np.random.default_rng(0)
    noise = [Image.fromarray(draw.integers(0, 255, (64, 64, 3), dtype=np.uint8)) for _ in range(15)]
    return StyleJudge(bench, StyleSet("noise", noise[:3], ["a"] * 3, noise[3:], ["b"] * 12))  # type: ignore[arg-type]


def test_what_an_adapter_was_fitted_on_is_a_copy_and_what_was_only_drawn_is_none(judge: StyleJudge) -> None:
    learned, drawn = (judge.measures(images, kinds_in_turn(len(images))) for images in (judge.pictures.learned, judge.pictures.drawn))
    assert learned["copies"] == [1.0] * 3 and learned["leak (subject)"] == pytest.approx([1.0] * 3, abs=1e-4)
    assert drawn["copies"] == [0.0] * 12 and max(drawn["leak (structure)"]) < 0.9


def test_form_is_of_parts_wherever_they_come_from_and_never_of_the_picture_itself(judge: StyleJudge) -> None:
    drawn, kinds = judge.pictures.drawn, judge.pictures.kinds
    assert max(judge.form(drawn, kinds)) < 0.999  # compared with itself it would be 1
    mirrored = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in drawn]
    halves = []
    for n, image in enumerate(drawn):  # the other half is of the next picture of the kind: another whole, the same parts
        other = drawn[(n + 3) % 12].copy()
        other.paste(image.crop((0, 0, 32, 64)), (0, 0))
        halves.append(other)
    assert np.mean(judge.form(halves, kinds)) > np.mean(judge.form(mirrored, kinds))
