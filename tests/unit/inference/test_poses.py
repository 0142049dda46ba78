import numpy as np
import pytest

from core.errors import UserError
from core.poses import LIMBS, POINTS, find_pose, pose_bank
from inference.poses import pose_picture


def test_the_bank_has_poses_of_every_framing_and_all_can_be_drawn():
    bank = pose_bank()
    assert {pose.framing for pose in bank.values()} == {"close-up", "portrait", "half-length"}
    assert all(np.asarray(pose_picture(pose, 64, 64)).any() for pose in bank.values())
    assert len({pose_picture(pose, 64, 64).tobytes() for pose in bank.values()}) == len(bank)


@pytest.mark.parametrize(("width", "height"), [(256, 256), (256, 128), (128, 256)])
def test_points_are_drawn_in_their_colours_where_they_are(width, height):
    pose = find_pose("portrait-left")
    drawn, side = np.asarray(pose_picture(pose, width, height)), min(width, height)
    for name, (x, y) in pose.points.items():
        column, row = int((width - side) / 2 + x * side), int((height - side) / 2 + y * side)
        if 0 <= column < width and 0 <= row < height:
            assert tuple(drawn[row, column]) == POINTS[name], name


def test_what_is_not_seen_is_not_drawn():
    pose = find_pose("portrait-left")
    assert len(pose.points) < len(POINTS)
    missing = next(limb for limb in LIMBS if not set(limb) <= set(pose.points))
    drawn = np.asarray(pose_picture(pose, 128, 128)).reshape(-1, 3)
    assert not (drawn == LIMBS[missing]).all(1).any()


def test_a_turned_head_has_its_nose_on_that_side():
    left, right = (find_pose(f"portrait-{side}").points["nose"][0] for side in ("left", "right"))
    assert (left < 0.45, right > 0.55) == (True, True)


def test_a_broken_bank_names_its_file(tmp_path):
    (tmp_path / "mine.toml").write_text(
        'framing = "portrait"\n[[pose]]\nname = "a"\ntitle = "A"\nwords = "a"\npoints = {tail = [0.5, 0.5]}\n'
    )
    with pytest.raises(ValueError, match=r"(?s)mine\.toml.*tail"):
        pose_bank(tmp_path)


def test_an_unknown_pose_is_not_found():
    with pytest.raises(UserError, match="No such pose"):
        find_pose("handstand")
