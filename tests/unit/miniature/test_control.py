"""The ControlNet's lessons: skeletons lie where the drawn subject is, and an untaught ControlNet changes nothing."""

import torch
from diffusers import FluxTransformer2DModel

from core.settings import Settings
from miniature import world
from miniature.teach.control import Controlled, new_control, without_pose
from miniature.world.keypoints import NAMES, keypoints


def test_the_points_of_the_face_lie_on_the_subject():
    scenes = [world.Scene(pose=pose, framing=framing, jitter=3) for pose in world.POSES for framing in world.FRAMINGS]
    for kind in world.KINDS:
        places, seen = keypoints(kind, scenes)
        mask = world.subject_mask(kind, world.identity_factors(kind, torch.arange(len(scenes))), scenes, size=64)
        for name in ("nose", "right_eye", "left_eye", "neck"):
            at = NAMES.index(name)
            inside = (places[:, at] > 0).all(-1) & (places[:, at] < 1).all(-1) & seen[:, at]
            column, row = (places[inside, at] * 64).long().unbind(-1)
            assert (mask[inside, 0, row, column] > 0.5).all(), (kind, name)


def test_poses_move_the_points_as_they_say():
    places, seen = keypoints("cat", [world.Scene(pose=pose) for pose in ("front", "left", "up", "tilted left")])
    nose, left_ear, right_ear, left_eye, right_eye = (NAMES.index(n) for n in ("nose", "left_ear", "right_ear", "left_eye", "right_eye"))
    front, left, up, tilted = places
    assert left[nose, 0] < front[nose, 0]
    assert up[nose, 1] < front[nose, 1]
    assert tilted[left_eye, 1] < tilted[right_eye, 1] - 0.02
    assert seen[0].all()
    assert [bool(seen[1, left_ear]), bool(seen[1, right_ear])].count(True) == 1


def test_an_untaught_controlnet_changes_nothing_and_a_taught_one_does():
    base = FluxTransformer2DModel.from_pretrained(
        Settings(_env_file=None).miniature_dir / "flux" / "transformer", torch_dtype=torch.float32
    )
    model = Controlled(base, new_control(base))
    draw = torch.Generator().manual_seed(0)
    noisy, prompts, pooled = (torch.randn(1, *shape, generator=draw) for shape in ((256, 64), (8, 128), (128,)))
    given = (noisy, torch.tensor([0.7]), prompts, pooled, torch.ones(1))
    skeleton = torch.randn(1, 256, 64, generator=draw)
    with torch.no_grad():
        bare = model(*given, None)
        assert torch.equal(model(*given, skeleton), bare)
        torch.nn.init.eye_(model.control.controlnet_blocks[0].weight)
        assert not torch.allclose(model(*given, skeleton), bare)


def test_half_of_the_captions_say_nothing_of_pose_and_framing():
    text = without_pose("dog", world.Scene(style="comic", accessory="crown", pose="left", framing="close-up"))
    assert text == "a comic drawing of a dog with a gold crown, against a plain blue backdrop, in soft daylight"
