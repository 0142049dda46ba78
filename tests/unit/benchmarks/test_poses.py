"""What the judge of poses is taught with and reckons by; whether it sees is measured each time before it judges."""

import pytest
import torch

from benchmarks import mode_pose_judge
from benchmarks.mode_pose_judge import PoseJudge, distance, draw, nearest
from core.poses import Pose, pose_bank
from miniature.world.keypoints import NAMES


def points_of(pose: Pose) -> torch.Tensor:
    return torch.tensor([pose.points.get(name, (0.5, 0.5)) for name in NAMES])


def test_every_skeleton_of_the_bank_is_nearest_to_itself() -> None:
    bank = pose_bank()
    for name, pose in bank.items():
        assert distance(points_of(pose), pose) == 0
        assert nearest(points_of(pose) + 0.005, bank) == name


def test_distance_is_a_share_of_the_side_over_the_points_in_the_picture() -> None:
    pose = pose_bank()["portrait-front"]
    moved = points_of(pose) + torch.tensor([0.03, 0.04])
    moved[NAMES.index("left_elbow")] = 9.0  # below the picture
    assert distance(moved, pose) == pytest.approx(0.05, abs=1e-6)


def test_points_move_with_the_picture() -> None:
    torch.manual_seed(0)
    side, at = 96, torch.tensor([[0.4, 0.6]]).repeat(16, 1)[:, None]
    rows, columns = torch.meshgrid(*[(torch.arange(side) + 0.5) / side] * 2, indexing="ij")
    dot = torch.exp(-((columns - 0.4) ** 2 + (rows - 0.6) ** 2) / 0.02**2)
    pictures, places = mode_pose_judge._moved(dot.expand(16, 3, -1, -1), at)
    brightest = pictures.mean(1).flatten(1).argmax(1)
    found = torch.stack([(brightest % side + 0.5) / side, (brightest // side + 0.5) / side], -1)
    assert (found - places[:, 0]).norm(dim=-1).max() < 0.02
    assert (places - at).norm(dim=-1).max() > 0.05


def test_a_judge_that_does_not_see_refuses_to_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TAUGHT", 6), ("STEPS", 1), ("BATCH", 2), ("TRIED", 2)):
        monkeypatch.setattr(mode_pose_judge, name, value)
    with pytest.raises(RuntimeError, match="is off by"):
        PoseJudge()


def test_lessons_are_of_every_kind_and_size_does_not_move_the_points() -> None:
    small, large = draw(1, 0, 0, size=16), draw(1, 0, 0, size=32)
    assert small.pictures.shape == (3, 3, 16, 16) and large.pictures.shape == (3, 3, 32, 32)
    assert torch.equal(small.places, large.places)
