import pytest

from trainer.buckets import Bucket, bucket_for, buckets_of


@pytest.mark.parametrize("resolution", [512, 768, 1024])
def test_shapes_are_few_and_never_larger_than_the_square(resolution: int) -> None:
    buckets = buckets_of(resolution)
    assert buckets[0] == Bucket(resolution, resolution) and len(set(buckets)) == 5
    for bucket in buckets:
        assert bucket.width % 64 == bucket.height % 64 == 0
        assert 0.9 * resolution**2 <= bucket.width * bucket.height <= resolution**2
        assert Bucket(bucket.height, bucket.width) in buckets


def test_small_bases_are_taught_squares() -> None:
    assert buckets_of(256) == (Bucket(256, 256),)
    assert bucket_for((300, 4000), 256) == Bucket(256, 256)


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((3000, 3000), (1024, 1024)),
        ((3024, 4032), (896, 1152)),
        ((4032, 3024), (1152, 896)),
        ((900, 4000), (832, 1216)),
        ((1536, 1024), (1216, 832)),
    ],
)
def test_a_photo_goes_where_least_is_cropped(size: tuple[int, int], shape: tuple[int, int]) -> None:
    assert bucket_for(size, 1024) == Bucket(*shape)
