"""The pose bank as data: skeletons of heads and shoulders per framing, in the points and colours of OpenPose, which ControlNets read.

Points lie in the unit square, x to the right and y down; «left» and «right» are the subject's own. A point that is not named is not seen.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from core.errors import not_found

SHIPPED = Path(__file__).with_name("pose_files")
Colour = tuple[int, int, int]

POINTS: dict[str, Colour] = {  # in the order of COCO's eighteen, those below the elbows left out
    "nose": (255, 0, 0),
    "neck": (255, 85, 0),
    "right_shoulder": (255, 170, 0),
    "right_elbow": (255, 255, 0),
    "left_shoulder": (85, 255, 0),
    "left_elbow": (0, 255, 0),
    "right_eye": (170, 0, 255),
    "left_eye": (255, 0, 255),
    "right_ear": (255, 0, 170),
    "left_ear": (255, 0, 85),
}
LIMBS: dict[tuple[str, str], Colour] = {  # OpenPose draws limbs at six tenths of its palette
    ("neck", "right_shoulder"): (153, 0, 0),
    ("neck", "left_shoulder"): (153, 51, 0),
    ("right_shoulder", "right_elbow"): (153, 102, 0),
    ("left_shoulder", "left_elbow"): (102, 153, 0),
    ("neck", "nose"): (0, 0, 153),
    ("nose", "right_eye"): (51, 0, 153),
    ("right_eye", "right_ear"): (102, 0, 153),
    ("nose", "left_eye"): (153, 0, 153),
    ("left_eye", "left_ear"): (153, 0, 102),
}
LIMB_WIDTH, POINT_RADIUS = (
    0.008,
    0.012,
)  # half a limb's width and a point's radius, as shares of the shorter side (OpenPose at 512: 4 pixels)


class Pose(BaseModel):
    """One skeleton. ``framing`` is how much of the subject is seen; ``words`` stand for the pose in a style's prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9-]{1,40}$")
    title: str
    words: str
    framing: str
    points: dict[str, tuple[float, float]]

    @field_validator("points")
    @classmethod
    def _known(cls, points: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        unknown = set(points) - set(POINTS)
        if unknown:
            raise ValueError(f"unknown points {', '.join(sorted(unknown))}; known are {', '.join(POINTS)}")
        return points

    @property
    def limbs(self) -> list[tuple[tuple[float, float], tuple[float, float], Colour]]:
        """Both ends and the colour of every limb whose ends are seen."""
        return [(self.points[a], self.points[b], colour) for (a, b), colour in LIMBS.items() if a in self.points and b in self.points]


@cache
def pose_bank(folder: Path = SHIPPED) -> dict[str, Pose]:
    """All poses of a folder by name, file by file. A broken file raises with its name: an operator must see it at start."""
    poses: dict[str, Pose] = {}
    for path in sorted(folder.glob("*.toml")):
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
            found = [Pose(framing=content["framing"], **entry) for entry in content["pose"]]
        except (KeyError, ValueError) as error:
            raise ValueError(f"pose file {path}: {error}") from error
        poses |= {pose.name: pose for pose in found}
    return poses


def find_pose(name: str, folder: Path = SHIPPED) -> Pose:
    """The pose of that name; :class:`core.errors.UserError` (404) if there is none."""
    pose = pose_bank(folder).get(name)
    if pose is None:
        raise not_found("pose")
    return pose
