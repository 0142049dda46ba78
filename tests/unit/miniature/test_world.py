"""The drawn world keeps its promises: same in, same out; identities differ and vary smoothly; captions tell scenes, never identities."""

import json
import random

import pytest
import torch
from PIL import Image

from miniature.world import (
    ACCESSORIES,
    BACKGROUNDS,
    FACTOR_NAMES,
    FRAMINGS,
    HELD_OUT_STYLE_ACCESSORY,
    KINDS,
    LIGHTS,
    POSES,
    STYLES,
    UNSEEN_SEED_START,
    Scene,
    caption,
    describe,
    identity_factors,
    render,
    sample_scene,
    subject_mask,
)
from miniature.world.__main__ import main
from miniature.world.captions import BACKGROUND_WORDS, FRAMING_WORDS, LIGHT_WORDS, POSE_WORDS, STYLE_WORDS, accessory_words

SIZE = 64
PLAIN = Scene(background_colour="teal", jitter=5)


def _one(kind: str, seed: int, scene: Scene, size: int = SIZE) -> torch.Tensor:
    return render(kind, identity_factors(kind, torch.tensor([seed])), [scene], size=size)[0]


def _scenes(count: int, seed: int = 0, **fixed) -> list[Scene]:
    rng = random.Random(seed)
    return [sample_scene(rng, **fixed) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_factors_fill_the_unit_range_and_depend_on_the_seed_alone(kind: str) -> None:
    seeds = torch.arange(4000)
    factors = identity_factors(kind, seeds)
    assert factors.shape == (4000, len(FACTOR_NAMES[kind])) and factors.dtype == torch.float32
    assert factors.min() >= 0 and factors.max() < 1
    assert (factors.mean(0) - 0.5).abs().max() < 0.03
    assert torch.corrcoef(factors.T).fill_diagonal_(0).abs().max() < 0.08
    assert torch.equal(factors[[17]], identity_factors(kind, torch.tensor([17])))


def test_every_kind_has_as_many_factors() -> None:
    assert len({len(names) for names in FACTOR_NAMES.values()}) == 1
    assert all(len(set(names)) == len(names) >= 10 for names in FACTOR_NAMES.values())


@pytest.mark.parametrize("seed", [0, 1, UNSEEN_SEED_START, 2**31, 2**62, -5])
def test_any_seed_gives_an_identity(seed: int) -> None:
    factors = identity_factors("dog", torch.tensor([seed]))
    assert torch.isfinite(factors).all() and factors.min() >= 0 and factors.max() < 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", STYLES)
def test_every_style_draws_finite_pictures_in_range(kind: str, style: str) -> None:
    scenes = _scenes(2, seed=3, style=style)
    pictures = render(kind, identity_factors(kind, torch.tensor([4, UNSEEN_SEED_START])), scenes, size=SIZE)
    assert pictures.shape == (2, 3, SIZE, SIZE) and pictures.dtype == torch.float32 and not pictures.requires_grad
    assert torch.isfinite(pictures).all() and pictures.min() >= 0 and pictures.max() <= 1
    assert pictures.std() > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_every_accessory_and_background_can_be_drawn(kind: str) -> None:
    scenes = [Scene(accessory=a, background=BACKGROUNDS[i % len(BACKGROUNDS)], jitter=i) for i, a in enumerate(ACCESSORIES)]
    factors = identity_factors(kind, torch.full((len(scenes),), 8))
    pictures = render(kind, factors, scenes, size=SIZE)
    assert torch.isfinite(pictures).all()
    same = [Scene(accessory=s.accessory, accessory_colour=s.accessory_colour, jitter=1) for s in scenes]
    drawn = render(kind, factors, same, size=SIZE)
    assert all((picture - drawn[0]).abs().amax() > 0.2 for picture in drawn[1:])


def test_drawing_is_deterministic_and_the_same_alone_as_in_a_batch() -> None:
    scenes = _scenes(6, seed=9)
    factors = identity_factors("cat", torch.arange(6))
    batch = render("cat", factors, scenes, size=SIZE)
    assert torch.equal(batch, render("cat", factors, scenes, size=SIZE))
    for i in (0, 3, 5):
        alone = render("cat", factors[i : i + 1], scenes[i : i + 1], size=SIZE)[0]
        assert (alone - batch[i]).abs().mean() < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_change_of_identity_is_a_small_change_of_the_picture(kind: str) -> None:
    factors = identity_factors(kind, torch.tensor([21])).clamp(0.05, 0.95)
    count = factors.shape[1]
    nudged = factors + 0.01 * torch.eye(count)
    pictures = render(kind, torch.cat([factors, nudged]), [PLAIN] * (count + 1), size=SIZE)
    moved = (pictures[1:] - pictures[0]).abs().mean(dim=(1, 2, 3))
    other = (_one(kind, 22, PLAIN) - pictures[0]).abs().mean()
    assert moved.max() < 0.25 * other


@pytest.mark.parametrize("kind", KINDS)
def test_every_factor_can_be_seen(kind: str) -> None:
    count = len(FACTOR_NAMES[kind])
    change = torch.zeros(count)
    for others in (0.4, 0.75):
        low = torch.full((count, count), others).fill_diagonal_(0.05)
        high = torch.full((count, count), others).fill_diagonal_(0.95)
        low, high = (render(kind, factors, [PLAIN] * count, size=96) for factors in (low, high))
        change = torch.maximum(change, (low - high).abs().amax(dim=(1, 2, 3)))
    unseen = [name for name, amount in zip(FACTOR_NAMES[kind], change.tolist(), strict=True) if amount < 0.08]
    assert not unseen


@pytest.mark.parametrize("kind", KINDS)
def test_identities_differ(kind: str) -> None:
    pictures = render(kind, identity_factors(kind, torch.arange(12)), [PLAIN] * 12, size=SIZE).flatten(1)
    apart = torch.cdist(pictures, pictures, p=1) / pictures.shape[1]
    assert apart.fill_diagonal_(1).min() > 0.01


def test_held_out_pairs_come_only_when_asked_for() -> None:
    pairs = {(s.style, s.accessory) for s in _scenes(6000)}
    assert not pairs & set(HELD_OUT_STYLE_ACCESSORY)
    assert all(a in ACCESSORIES and s in STYLES for s, a in HELD_OUT_STYLE_ACCESSORY)
    for style, accessory in HELD_OUT_STYLE_ACCESSORY:
        assert all(s.style != style for s in _scenes(60, accessory=accessory))
        assert _scenes(1, style=style, accessory=accessory)[0].accessory == accessory
    assert {(s.style, s.accessory) for s in _scenes(6000, allow_held_out=True)} >= set(HELD_OUT_STYLE_ACCESSORY)


def test_scenes_cover_the_world() -> None:
    scenes = _scenes(3000)
    for field, words in (
        ("style", STYLES),
        ("accessory", ACCESSORIES),
        ("background", BACKGROUNDS),
        ("framing", FRAMINGS),
        ("pose", POSES),
        ("light", LIGHTS),
    ):
        assert {getattr(s, field) for s in scenes} == set(words)
    assert 0.3 < sum(s.style == "photo" for s in scenes) / 3000 < 0.4
    assert hash(scenes[0]) == hash(Scene(**{f: getattr(scenes[0], f) for f in Scene.__dataclass_fields__}))


def test_unknown_words_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="velvet"):
        Scene(style="velvet")
    with pytest.raises(TypeError, match="weather"):
        sample_scene(random.Random(0), weather="rain")


def test_captions_tell_the_whole_scene_and_nothing_of_the_identity() -> None:
    identity_words = ("fur", "coat", "stripe", "spot", "patch", "eyes", "hair", "skin", "freckle", "brow", "muzzle", "nose", "ears ")
    rng = random.Random(1)
    lengths = []
    for scene in _scenes(600, seed=4):
        for words in (caption("cat", scene, rng), describe("cat", scene)):
            assert any(w in words for w in STYLE_WORDS[scene.style]), words
            assert any(w in words for w in FRAMING_WORDS[scene.framing]), words
            assert any(w in words for w in POSE_WORDS[scene.pose]), words
            assert any(w in words for w in LIGHT_WORDS[scene.light]), words
            assert any(w.format(scene.background_colour) in words for w in BACKGROUND_WORDS[scene.background]), words
            assert accessory_words(scene) in words and "a cat" in words
            assert not any(w in words for w in identity_words), words
            lengths.append(len(words.split()))
    assert max(lengths) <= 40 and 15 <= sum(lengths) / len(lengths) <= 25


def test_a_caption_can_name_the_subject_otherwise() -> None:
    scene = _scenes(1)[0]
    assert "zxq cat" in caption("cat", scene, random.Random(2), subject="zxq cat")
    assert " a cat" not in describe("cat", scene, subject="zxq cat")
    assert describe("dog", scene) == describe("dog", scene)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_covers_the_subject_and_not_the_corners(kind: str) -> None:
    mask = subject_mask(kind, identity_factors(kind, torch.tensor([2])), [PLAIN], size=SIZE)
    assert mask.shape == (1, 1, SIZE, SIZE) and mask.min() >= 0 and mask.max() <= 1
    assert mask[0, 0, SIZE // 2, SIZE // 2] > 0.99 and mask[0, 0, 0, 0] < 0.01 and mask[0, 0, 0, -1] < 0.01
    assert 0.15 < mask.mean() < 0.75


def test_drawn_photos_carry_exif_and_their_truth(tmp_path) -> None:
    main(["draw", "--kind", "dog", "--seed", "1000003", "--photos", "3", "--out", str(tmp_path), "--flaws", "--size", "96"])
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert truth["seed"] == 1000003 and set(truth["factors"]) == set(FACTOR_NAMES["dog"])
    assert [photo["flaw"] for photo in truth["photos"]] == [None, None, None, "blurred", "near-duplicate", "another subject"]
    for photo in truth["photos"]:
        with Image.open(tmp_path / photo["file"]) as image:
            assert image.format == "JPEG" and image.size == (96, 96)
            exif = image.getexif()
            assert exif[0x010F] and exif[0x0110] and exif.get_ifd(0x8825)[2] and exif.get_ifd(0x8769)[0x9003]


def test_a_contact_sheet_is_written(tmp_path) -> None:
    main(["sheet", "--out", str(tmp_path / "sheet.png"), "--size", "32"])
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width > 32 * len(STYLES)
