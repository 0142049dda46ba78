"""How the benchmark of isolation counts: which picture of a request, and whose it is."""

import torch

from benchmarks.isolation import Asked, Subject, most_alike, verdict

ASKED = [Asked(Subject(0), "studio-photo", 2), Asked(Subject(1), "studio-photo", 2), Asked(Subject(1), "watercolour", 2)]
NEAR = torch.tensor(  # [requests, pictures, subjects]
    [
        [[0.9, 0.1], [0.8, 0.95]],
        [[0.6, 0.5], [0.2, 0.7]],
        [[0.6, 0.5], [0.7, 0.4]],
    ]
)


def test_of_each_request_the_picture_most_like_its_own_subject_counts():
    assert torch.equal(most_alike(ASKED, NEAR), torch.stack([NEAR[0, 0], NEAR[1, 1], NEAR[2, 0]]))


def test_misses_are_named_with_whom_they_resemble():
    assert verdict(ASKED, most_alike(ASKED, NEAR)) == {
        "nearest_is_own": 2,
        "by_style": {"studio-photo": 2},
        "misses": [[1, "watercolour", 0]],
    }
    assert verdict(ASKED, NEAR[:, 0])["misses"] == [[1, "studio-photo", 0], [1, "watercolour", 0]]
