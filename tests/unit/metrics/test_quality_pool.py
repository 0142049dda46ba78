from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from core.words import SubjectKind
from metrics.photo_files import PhotoLimits, PhotoRefused
from metrics.photo_pool import PhotoPool, check_upload
from tests.unit.metrics.pictures import blocks, encoded

LIMITS = PhotoLimits(min_side=300)


@pytest.fixture
def pool() -> Iterator[PhotoPool]:
    opened = PhotoPool(children=1)
    yield opened
    opened.close()


def test_a_child_says_what_this_process_would(pool: PhotoPool) -> None:
    data = encoded(blocks())
    assert pool.check(data, SubjectKind.CAT, LIMITS) == check_upload(data, SubjectKind.CAT, LIMITS)


def test_a_refusal_comes_back_with_its_reason_and_the_child_lives_on(pool: PhotoPool) -> None:
    with pytest.raises(PhotoRefused) as refused:
        pool.check(b"text", SubjectKind.CAT, LIMITS)
    assert refused.value.reason.code == "photo/not-a-photo"
    assert pool.check(encoded(blocks()), SubjectKind.CAT, LIMITS)[0].width == 640


def test_a_child_that_needs_too_much_memory_costs_one_photo_only() -> None:
    pool = PhotoPool(children=1, memory_bytes=60 * 2**20)
    try:
        with pytest.raises(PhotoRefused) as refused:
            pool.check(encoded(Image.new("RGB", (6000, 6000)), "PNG"), SubjectKind.CAT, LIMITS)
        assert refused.value.reason.code == "photo/too-costly"
        assert pool.check(encoded(blocks()), SubjectKind.CAT, LIMITS)[0].width == 640
    finally:
        pool.close()


def test_a_child_that_takes_too_long_is_stopped() -> None:
    pool = PhotoPool(children=1, time_s=0.01)
    try:
        with pytest.raises(PhotoRefused) as refused:
            pool.check(encoded(blocks()), SubjectKind.CAT, LIMITS)
        assert "too long" in refused.value.reason.message
    finally:
        pool.close()


def test_many_threads_share_the_children(pool: PhotoPool) -> None:
    with ThreadPoolExecutor(4) as threads:
        answers = threads.map(lambda seed: pool.check(encoded(blocks(seed)), SubjectKind.OTHER, LIMITS)[1].dhash, range(6))
    assert len(set(answers)) == 6
