from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from core.words import PhotoVerdict, SubjectKind
from metrics.quality import SetMember, compare_set, dhash, dhash_distance, inspect
from tests.unit.metrics.pictures import blocks


def codes(image: Image.Image, min_side: int = 300) -> list[str]:
    return [reason.code for reason in inspect(image, SubjectKind.OTHER, min_side).reasons]


def member(image: Image.Image, name: str = "", faces: int | None = None) -> SetMember:
    report = inspect(image, SubjectKind.OTHER, 100)
    return SetMember(report.dhash, report.sharpness, faces, report.verdict != PhotoVerdict.REJECTED, name)


def set_codes(*members: SetMember) -> list[list[str]]:
    return [[reason.code for reason in reasons] for reasons in compare_set(members)]


def test_a_good_photo_is_good() -> None:
    report = inspect(blocks(), SubjectKind.OTHER, 300)
    assert (report.verdict, report.reasons) == (PhotoVerdict.GOOD, [])


def test_the_short_side_is_judged_by_what_the_base_model_trains_at() -> None:
    image = blocks(width=900, height=500)
    assert codes(image, min_side=512) == ["photo/too-small"]
    assert codes(image, min_side=256) == ["photo/small"]
    assert codes(image, min_side=250) == []
    assert inspect(image, SubjectKind.OTHER, 512).verdict == PhotoVerdict.REJECTED
    assert inspect(image, SubjectKind.OTHER, 256).verdict == PhotoVerdict.WARN


def test_dark_photos_are_refused_and_bright_ones_only_noted() -> None:
    dark, bright = blocks().point(lambda value: value // 6), blocks().point(lambda value: 200 + value // 5)
    assert inspect(dark, SubjectKind.OTHER, 300).verdict == PhotoVerdict.REJECTED
    assert "photo/too-dark" in codes(dark)
    assert inspect(bright, SubjectKind.OTHER, 300).verdict == PhotoVerdict.WARN
    assert "photo/too-bright" in codes(bright)


def test_blur_is_seen_by_degrees() -> None:
    assert codes(blocks().filter(ImageFilter.GaussianBlur(30))) == ["photo/blurred"]
    soft = blocks().filter(ImageFilter.GaussianBlur(3))
    assert codes(soft) == ["photo/soft"]
    assert inspect(soft, SubjectKind.OTHER, 300).verdict == PhotoVerdict.WARN


def test_every_reason_names_what_to_do() -> None:
    broken = blocks(width=200, height=200).filter(ImageFilter.GaussianBlur(30)).point(lambda value: value // 6)
    reasons = inspect(broken, SubjectKind.OTHER, 300).reasons
    assert len(reasons) == 3
    assert all(reason.message and reason.fix for reason in reasons)


def test_dhash_is_stable_under_resizing_and_tells_pictures_apart() -> None:
    grey = np.asarray(blocks(1).convert("L"))
    smaller = np.asarray(blocks(1).resize((300, 280)).convert("L"))
    assert dhash_distance(dhash(grey), dhash(smaller)) < 5
    assert dhash_distance(dhash(grey), dhash(np.asarray(blocks(2).convert("L")))) > 15


def test_of_two_near_duplicates_the_earlier_stays_and_is_named() -> None:
    first, twin = member(blocks(1), "a.jpg"), member(blocks(1).resize((400, 380)), "b.jpg")
    findings = compare_set([first, member(blocks(2)), twin])
    assert [[reason.code for reason in reasons] for reasons in findings] == [[], [], ["photo/near-duplicate"]]
    assert "a.jpg" in findings[2][0].message


def test_a_refused_photo_makes_no_other_a_duplicate() -> None:
    refused = SetMember(member(blocks(1)).dhash, 500, None, usable=False)
    assert set_codes(refused, member(blocks(1))) == [[], []]


def test_blur_stands_out_from_the_set() -> None:
    sharp = [SetMember(f"{seed:016x}", 900.0, None) for seed in (0, 0xFFFF, 0xFFFF0000)]
    soft, plain = SetMember("f" * 16, 90.0, None), SetMember("f0" * 8, 200.0, None)
    found = compare_set([*sharp, soft, plain])
    assert [reason.verdict for reason in found[3]] == [PhotoVerdict.REJECTED]  # blurred by itself, too
    assert [reason.verdict for reason in found[4]] == [PhotoVerdict.WARN]  # sharp enough by itself


def test_a_missing_face_is_only_advice_and_only_where_faces_are_found() -> None:
    with_face = [SetMember(f"{seed:016x}", 500.0, 1) for seed in (0, 0xFFFF, 0xFFFF0000)]
    without = SetMember("f" * 16, 500.0, 0)
    assert set_codes(*with_face, without)[-1] == ["photo/no-face"]
    assert compare_set([*with_face, without])[-1][0].verdict == PhotoVerdict.WARN
    assert set_codes(without, SetMember("0" * 16, 500.0, 0)) == [[], []]
