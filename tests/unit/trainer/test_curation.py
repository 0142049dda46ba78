import pytest
import torch

from core.errors import JobFailed
from core.words import PhotoVerdict
from tests.unit.trainer.fakes import FakeIdentity, photo
from trainer.curation import curate, outliers, require

ENCODER = FakeIdentity()


def test_a_set_of_one_subject_is_kept_whole() -> None:
    curated = curate([photo(n) for n in range(12)], ENCODER, min_photos=10)
    assert [p.key for p in curated.photos] == [f"{n:064x}" for n in range(12)]
    assert curated.embeds.shape[0] == 12
    assert {finding.verdict for finding in curated.findings} == {PhotoVerdict.GOOD}


def test_a_photo_of_somebody_else_is_named_and_left_out() -> None:
    photos = [photo(n) for n in range(10)] + [photo(10, shows="rex"), photo(11)]
    curated = curate(photos, ENCODER, min_photos=10)
    assert [p.key for p in curated.photos] == [p.key for p in photos if p is not photos[10]]
    (finding,) = [finding for finding in curated.findings if finding.verdict == PhotoVerdict.REJECTED]
    assert finding.name == "10.jpg"
    assert finding.reasons[0].code == "photo/another-subject" and finding.reasons[0].fix


def test_an_odd_photo_is_pointed_out_and_kept() -> None:
    """The same subject half hidden: less like the others, and still more like them than a stranger would be."""
    photos = [photo(n) for n in range(10)] + [photo(10, shows="miso wig")]
    curated = curate(photos, FakeIdentity(own=0.1), min_photos=10)
    (finding,) = [finding for finding in curated.findings if finding.reasons]
    assert (finding.verdict, finding.reasons[0].code) == (PhotoVerdict.WARN, "photo/unlike-the-others")
    assert len(curated.photos) == 11


def test_a_near_duplicate_is_left_out_while_enough_remain() -> None:
    photos = [photo(n) for n in range(11)] + [photo(50, looks_like=3)]
    curated = curate(photos, FakeIdentity(own=0.05), min_photos=10)
    (finding,) = [finding for finding in curated.findings if finding.reasons]
    assert finding.name in ("3.jpg", "50.jpg")
    assert finding.reasons[0].code == "photo/near-duplicate"
    assert len(curated.photos) == 11


def test_a_near_duplicate_is_kept_rather_than_failing_the_training() -> None:
    photos = [photo(n) for n in range(9)] + [photo(50, looks_like=3)]
    assert len(curate(photos, FakeIdentity(own=0.05), min_photos=10).photos) == 10


def test_a_hash_alone_does_not_make_a_duplicate() -> None:
    photos = [photo(n) for n in range(11)] + [photo(50, looks_like=3)]
    assert len(curate(photos, FakeIdentity(own=0.6), min_photos=10).photos) == 12


def test_the_same_file_twice_counts_once() -> None:
    assert len(curate([photo(n) for n in range(10)] + [photo(0)], ENCODER, min_photos=10).photos) == 10


def test_too_few_left_fails_with_every_name_and_reason() -> None:
    photos = [photo(n) for n in range(8)] + [photo(8, shows="rex"), photo(9, shows="tom", name="IMG_9.jpg")]
    with pytest.raises(JobFailed) as failed:
        require(curate(photos, ENCODER, min_photos=10), 10)
    for part in ("Only 8", "add 2 more", "8.jpg:", "IMG_9.jpg:", "somebody else"):
        assert part in str(failed.value)


def test_a_tight_set_has_no_outliers_and_three_have_no_majority() -> None:
    tight = torch.nn.functional.normalize(torch.ones(10, 8) + 0.02 * torch.randn(10, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    assert outliers(tight) == {}
    assert outliers(torch.eye(3)) == {}
