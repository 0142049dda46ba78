"""How the benchmark of isolation counts: which picture of a request, and whose it is."""

import torch
from torch.nn.functional import normalize

from benchmarks.isolation_judge import Judge, most_alike, verdict
from benchmarks.isolation_subjects import Asked, Subject

ASKED = [Asked(Subject(0), "studio-photo", 2), Asked(Subject(1), "studio-photo", 2), Asked(Subject(1), "watercolour", 2)]
NEAR = torch.tensor(  # [requests, pictures, subjects]
    [
        [[0.9, 0.1], [0.8, 0.95]],
        [[0.6, 0.5], [0.2, 0.7]],
        [[0.6, 0.5], [0.7, 0.4]],
    ]
)


def test_of_each_request_the_picture_most_like_its_own_subject_counts():
    assert torch.equal(most_alike(ASKED, NEAR + 1, NEAR), torch.stack([NEAR[0, 0], NEAR[1, 1], NEAR[2, 0]]) + 1)


def test_misses_are_named_with_whom_they_resemble():
    assert verdict(ASKED, most_alike(ASKED, NEAR, NEAR)) == {
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
