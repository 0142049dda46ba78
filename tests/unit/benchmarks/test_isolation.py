"""How the benchmark of isolation counts: which picture of a request, and whose it is."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from benchmarks import isolation, isolation_drawing
from benchmarks.isolation_drawing import Drawn
from benchmarks.isolation_judge import Judge, by_galleries, most_alike, verdict
from benchmarks.isolation_sheet import COLUMNS, missed, sheet_of_misses
from benchmarks.isolation_subjects import DRAWN_AS, Asked, Subject, draw_photos, scene_of

ASKED = [Asked(Subject(0), "studio-photo", 2), Asked(Subject(1), "studio-photo", 2), Asked(Subject(1), "watercolour", 2)]
NEAR = torch.tensor(  # [requests, pictures, subjects]
    [
        [[0.9, 0.1], [0.8, 0.95]],
        [[0.6, 0.5], [0.2, 0.7]],
        [[0.6, 0.5], [0.7, 0.4]],
    ]
)


def test_of_each_request_the_picture_most_like_its_own_subject_counts():
    assert most_alike(ASKED, NEAR) == [0, 1, 0]


def test_misses_are_named_with_whom_they_resemble():
    assert verdict(ASKED, NEAR[torch.arange(3), most_alike(ASKED, NEAR)]) == {
        "nearest_is_own": 2,
        "by_style": {"studio-photo": 2},
        "misses": [[1, "watercolour", 0]],
    }
    assert verdict(ASKED, NEAR[:, 0])["misses"] == [[1, "studio-photo", 0], [1, "watercolour", 0]]


def test_where_a_style_moves_everybody_towards_one_subject_the_centred_judge_still_tells_them_apart():
    photos = [normalize(torch.tensor([direction, direction]), dim=-1) for direction in ([1.0, 0.0, 0.2], [0.0, 1.0, 0.2])]
    asked = [Asked(Subject(number), style) for style in ("studio-photo", "neon") for number in (0, 1)]
    as_photographed = torch.stack([some[0] for some in photos])
    in_neon = normalize(as_photographed + torch.tensor([2.0, 0.0, 0.0]), dim=-1)  # as if neon were the first subject's colour
    verdicts = Judge(photos).verdicts(asked, torch.cat([as_photographed, in_neon]))
    assert verdicts["plain"]["misses"] == [[1, "neon", 0]]
    assert verdicts["centred"]["misses"] == []


def test_the_centred_judge_sees_pictures_that_were_mixed_up():
    photos = [normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(n)), dim=-1) for n in range(3)]
    asked = [Asked(Subject(number), "neon") for number in range(3)]
    verdicts = Judge(photos).verdicts(asked, torch.stack([photos[n].mean(0) for n in (1, 0, 2)]))
    assert verdicts["centred"]["misses"] == verdicts["plain"]["misses"] == [[0, "neon", 1], [1, "neon", 0]]


def _directions(count: int) -> torch.Tensor:
    return normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(5)), dim=-1)


def test_a_gallery_tells_whose_adapter_drew_a_picture_that_is_like_nobody():
    asked = [Asked(Subject(number), style) for style in ("neon", "poster") for number in (0, 1, 2)]
    own = _directions(6)  # what each adapter draws in each style, whatever its subject looks like
    galleries = torch.stack([own, own], 1)
    assert verdict(asked, by_galleries(asked, own, galleries))["misses"] == []
    each_the_next_ones = own[[1, 2, 0, 3, 4, 5]]
    assert verdict(asked, by_galleries(asked, each_the_next_ones, galleries))["misses"] == [[0, "neon", 1], [1, "neon", 2], [2, "neon", 0]]


def test_a_gallery_compares_only_with_pictures_in_the_same_style():
    asked = [Asked(Subject(0), "neon"), Asked(Subject(1), "poster")]
    own = _directions(2)
    near = by_galleries(asked, own[[1, 0]], torch.stack([own], 1))
    assert near[0, 1] == near[1, 0] == -1


def test_without_a_gallery_photos_alone_judge():
    photos = [own.expand(2, 8) for own in _directions(2)]
    asked = [Asked(Subject(number), "neon") for number in (0, 1)]
    embeds = torch.stack([some[0] for some in photos])
    assert set(Judge(photos).verdicts(asked, embeds, torch.empty(2, 0, 8))) == {"plain", "centred"}


def test_the_ceiling_counts_photos_that_are_nearest_to_their_own_subjects_others():
    cat, dog = torch.eye(8)[0], torch.eye(8)[1]
    assert Judge([cat.expand(3, 8), dog.expand(3, 8)]).photos_nearest_own() == 1
    assert Judge([torch.stack([cat, cat, dog]), dog.expand(3, 8)]).photos_nearest_own() == round(5 / 6, 4)


def test_the_world_draws_what_a_styles_prompt_says():
    scenes = {style: scene_of(style, 7) for style in DRAWN_AS}
    oil = scenes["oil-painting"]
    assert (oil.style, oil.background, oil.light, oil.jitter) == ("oil painting", "autumn forest", "golden evening light", 7)
    assert (scenes["studio-photo"].style, scenes["studio-photo"].background_colour) == ("photo", "grey")


def test_a_sheet_has_a_row_for_each_picture_that_some_judge_misses():
    misses = missed({"plain": {"misses": [[1, "neon", 0]]}, "centred": {"misses": [[1, "neon", 0], [0, "poster", 1]]}})
    assert misses == [(0, "poster", 1), (1, "neon", 0)]
    asked = [Asked(Subject(0), "poster"), Asked(Subject(1), "neon")]
    red, blue, grey = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", "grey"))
    sheet = sheet_of_misses(asked, [red, blue], [grey, grey], {Subject(n): [grey] * 3 for n in (0, 1)}, misses)
    seen = sheet.quantize(64).convert("RGB").getcolors(maxcolors=2**16)
    assert sheet.width > len(COLUMNS) * 200
    assert {(255, 0, 0), (0, 0, 255)} <= {colour for _, colour in seen}


@dataclass
class Pen:
    """Stands for a rule whose engines remember which adapters they have seen."""

    engines: list[list[str]] = field(default_factory=list)

    def drawer(self, bench: object, best_of: int) -> list[str]:
        self.engines.append([])
        return self.engines[-1]

    def draw(self, drawer: list[str], one: Asked, adapter: str) -> Drawn:
        drawer.append(adapter)
        image = Image.new("RGB", (1, 1), (one.subject.number, one.shift // 1000, len(one.style)))
        return Drawn([image], [image])


def colours(images: list[Image.Image]) -> list[tuple[int, ...]]:
    return [image.getpixel((0, 0)) for image in images]


@pytest.fixture
def pen(monkeypatch: pytest.MonkeyPatch) -> Pen:
    monkeypatch.setattr(isolation_drawing, "read_adapter", lambda base, path, key: path.stem)
    return Pen()


MIXED = [Asked(Subject(0), "neon"), Asked(Subject(1), "neon"), Asked(Subject(0), "poster")]
PATHS = {Subject(n): Path(f"{n}.safetensors") for n in (0, 1)}


def test_alone_an_engine_sees_one_adapter_and_pictures_come_in_the_requests_order(pen):
    drawn = isolation_drawing.drawn_alone(SimpleNamespace(base=None), pen, PATHS, MIXED)
    assert pen.engines == [["0", "0"], ["1"]]
    assert colours([some.kept[0] for some in drawn]) == [(0, 0, 4), (1, 0, 4), (0, 0, 6)]


def test_a_gallery_has_its_requests_own_pictures_from_other_seeds(pen):
    galleries = isolation_drawing.galleries_alone(SimpleNamespace(base=None), pen, PATHS, MIXED, 2)
    assert [colours(some) for some in galleries] == [[(0, 1, 4), (0, 2, 4)], [(1, 1, 4), (1, 2, 4)], [(0, 1, 6), (0, 2, 6)]]
    assert isolation_drawing.galleries_alone(SimpleNamespace(base=None), pen, PATHS, MIXED, 0) == [[], [], []]


def test_other_seeds_of_the_world_are_other_subjects():
    one, other = (Asked(Subject(0, first), "studio-photo").drawn_by_the_world(1) for first in (1_070_000, 1_080_000))
    assert one.tobytes() != other.tobytes()


def test_a_folder_with_another_number_of_photos_is_refused(tmp_path):
    (tmp_path / "0").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "0" / "IMG_0001.jpg")
    with pytest.raises(ValueError, match=r"holds \[1\] photos a subject, not 20"):
        draw_photos([Subject(0)], tmp_path, 20)


def test_a_sheet_needs_a_gallery(capsys):
    with pytest.raises(SystemExit):
        isolation.main(["--sheet", "sheet.jpg", "--gallery", "0"])
    assert "needs a --gallery" in capsys.readouterr().err


def test_a_folder_without_an_evaluator_is_refused(capsys, tmp_path):
    with pytest.raises(SystemExit):
        isolation.main(["--evaluator", str(tmp_path)])
    assert f"no encoder in {tmp_path}" in capsys.readouterr().err
