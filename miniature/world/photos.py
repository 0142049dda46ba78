"""A photo set such as a customer would bring: JPEGs of one drawn identity, with the EXIF of a telephone, and the truth beside them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from PIL import Image, ImageFilter
from torch import Tensor

from miniature.world.captions import caption
from miniature.world.identity import FACTOR_NAMES, identity_factors
from miniature.world.render import render
from miniature.world.scene import Scene, sample_scene

PHOTO_SIZE = 768
JPEG_QUALITY = 92
_CAMERAS = (("Fernweh", "Lumen 4"), ("Okular", "P-20 Pro"), ("Halcyon", "H7"))
_EXIF_MAKE, _EXIF_MODEL, _EXIF_SOFTWARE, _EXIF_TIME = 0x010F, 0x0110, 0x0131, 0x0132
_EXIF_ORIENTATION, _EXIF_IFD, _GPS_IFD = 0x0112, 0x8769, 0x8825


def to_image(picture: Tensor) -> Image.Image:
    """A Pillow image of one picture [3, H, W] in [0, 1]."""
    values = (picture.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())


def _degrees(value: float) -> tuple[float, float, float]:
    minutes = (value % 1) * 60
    return float(int(value)), float(int(minutes)), round((minutes % 1) * 60, 2)


def exif_of(rng: random.Random) -> Image.Exif:
    """Plausible EXIF: camera, date, exposure and a place on the map."""
    exif = Image.Exif()
    make, model = rng.choice(_CAMERAS)
    taken = f"2025:{rng.randint(1, 12):02}:{rng.randint(1, 28):02} {rng.randint(8, 20):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}"
    for tag, value in (
        (_EXIF_MAKE, make),
        (_EXIF_MODEL, model),
        (_EXIF_SOFTWARE, "Drawn world 1"),
        (_EXIF_TIME, taken),
        (_EXIF_ORIENTATION, 1),
    ):
        exif[tag] = value
    exif.get_ifd(_EXIF_IFD).update({0x9003: taken, 0x829A: 1 / rng.choice((60, 125, 250)), 0x829D: 1.8, 0x8827: rng.choice((50, 100, 400))})
    exif.get_ifd(_GPS_IFD).update(
        {1: "N", 2: _degrees(rng.uniform(45, 55)), 3: "E", 4: _degrees(rng.uniform(5, 15)), 5: b"\x00", 6: rng.uniform(0, 400)}
    )
    return exif


def _spread_scenes(rng: random.Random, count: int) -> list[Scene]:
    """Scenes in the photo style that differ from one to the next as a good photo set does."""
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = sample_scene(rng, style="photo")
        recent = scenes[-4:]
        if all(
            scene.background != other.background and (scene.accessory == "none" or scene.accessory != other.accessory) for other in recent
        ):
            scenes.append(scene)
    return scenes


def _record(file: str, kind: str, seed: int, scene: Scene, rng: random.Random, flaw: str | None = None) -> dict:
    words = {field: getattr(scene, field) for field in Scene.__dataclass_fields__}
    return {"file": file, "kind": kind, "seed": seed, "scene": words, "caption": caption(kind, scene, rng), "flaw": flaw}


def draw_photo_set(kind: str, seed: int, photos: int, folder: Path, *, flaws: bool = False, size: int = PHOTO_SIZE) -> dict:
    """Draw `photos` JPEGs of an identity into `folder`, with truth.json; returns what that file holds.

    `flaws` adds three that curation should refuse: one blurred, one nearly the same as the first, one of another subject.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"{kind}-{seed}")
    plan: list[tuple[int, Scene, str | None]] = [(seed, scene, None) for scene in _spread_scenes(rng, photos)]
    if flaws:
        plan.append((seed, sample_scene(rng, style="photo"), "blurred"))
        plan.append((seed, plan[0][1], "near-duplicate"))
        plan.append((seed + 7_777, sample_scene(rng, style="photo"), "another subject"))
    records = []
    for number, (who, scene, flaw) in enumerate(plan, start=1):
        image = to_image(render(kind, identity_factors(kind, torch.tensor([who])), [scene], size=size)[0])
        if flaw == "blurred":
            image = image.filter(ImageFilter.GaussianBlur(size / 64))
        if flaw == "near-duplicate":
            edge = size // 96
            image = image.crop((edge, edge, size - edge, size - edge)).resize((size, size), Image.Resampling.BICUBIC)
        name = f"IMG_{number:04}.jpg"
        image.save(folder / name, quality=JPEG_QUALITY, exif=exif_of(rng))
        records.append(_record(name, kind, who, scene, rng, flaw))
    factors = identity_factors(kind, torch.tensor([seed]))[0].tolist()
    truth = {"kind": kind, "seed": seed, "factors": dict(zip(FACTOR_NAMES[kind], factors, strict=True)), "photos": records}
    (folder / "truth.json").write_text(json.dumps(truth, indent=2) + "\n")
    return truth
