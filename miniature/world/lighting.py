"""From relief and colour to a lit subject: one soft key light, sky light, a rim, and shine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from miniature.world.canvas import Canvas
from miniature.world.scene import Scene
from miniature.world.view import View

# fmt: off
_LIGHTS: dict[str, tuple[float, ...]] = {
    # direction x y z (y down),              key r g b,        ambient r g b,    rim r g b,        backdrop r g b
    "soft daylight": (-0.40, -0.65, 0.65,        0.65, 0.64, 0.61, 0.53, 0.54, 0.56, 0.40, 0.42, 0.45, 1.00, 1.00, 1.00),
    "golden evening light": (0.78, -0.28, 0.52,  1.00, 0.80, 0.54, 0.52, 0.47, 0.46, 1.00, 0.62, 0.22, 1.08, 0.90, 0.68),
    "cool moonlight": (-0.55, -0.65, 0.50,       0.52, 0.60, 0.78, 0.37, 0.41, 0.52, 0.45, 0.65, 1.00, 0.52, 0.61, 0.88),
    "strong side light": (0.97, -0.12, 0.22,     1.10, 1.06, 1.00, 0.34, 0.34, 0.36, 0.25, 0.25, 0.28, 0.76, 0.76, 0.78),
    "warm candlelight": (0.30, 0.62, 0.70,       0.94, 0.69, 0.45, 0.44, 0.37, 0.33, 0.80, 0.42, 0.15, 0.80, 0.62, 0.46),
    "bright studio light": (-0.15, -0.45, 0.88,  0.67, 0.67, 0.67, 0.58, 0.58, 0.59, 0.75, 0.75, 0.78, 1.10, 1.10, 1.10),
}
# fmt: on


@dataclass
class Light:
    """The light of a batch; each [B, 1, 1, 1] or [B, 3, 1, 1]."""

    x: Tensor
    y: Tensor
    z: Tensor
    key: Tensor
    ambient: Tensor
    rim: Tensor
    backdrop: Tensor


def make_light(scenes: Sequence[Scene], view: View) -> Light:
    """Numbers of the named lights, each with a little jitter of direction and strength."""
    table = torch.tensor([_LIGHTS[s.light] for s in scenes], dtype=torch.float32).to(view.jitter.device, non_blocking=True)
    numbers = table.view(len(scenes), -1, 1, 1)
    flip = torch.where(view.chance(61) < 0.5, -1.0, 1.0)
    x, y, z = numbers[:, 0:1] * flip + (view.chance(62) - 0.5) * 0.2, numbers[:, 1:2] + (view.chance(63) - 0.5) * 0.2, numbers[:, 2:3]
    length = torch.sqrt(x * x + y * y + z * z)
    gain = 0.94 + 0.12 * view.chance(64)
    return Light(x / length, y / length, z / length, numbers[:, 3:6] * gain, numbers[:, 6:9] * gain, numbers[:, 9:12], numbers[:, 12:15])


def blur(image: Tensor, radius: float) -> Tensor:
    """Soft blur of [B, C, H, W]; `radius` in pixels is about the standard deviation."""
    if radius >= 6:
        factor = max(2, int(radius / 3))
        small = F.avg_pool2d(image, factor, ceil_mode=True, count_include_pad=False)
        return F.interpolate(blur(small, radius / factor), size=image.shape[-2:], mode="bilinear", align_corners=False)
    reach = max(1, round(radius))
    for _ in range(2):
        image = F.avg_pool2d(image, (1, 2 * reach + 1), 1, (0, reach), count_include_pad=False)
        image = F.avg_pool2d(image, (2 * reach + 1, 1), 1, (reach, 0), count_include_pad=False)
    return image


def slopes(height: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y, in units of height per pixel."""
    padded = F.pad(height, (1, 1, 1, 1), mode="replicate")
    return (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) * 0.5, (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) * 0.5


@dataclass
class Shading:
    """How the light falls, without colour: all [B, 1, H, W]."""

    key: Tensor
    shine: Tensor
    rim: Tensor
    hollow: Tensor
    """1 in the open, less in creases."""


def shade(canvas: Canvas, light: Light) -> Shading:
    """Light on the relief of the canvas."""
    size = canvas.height.shape[-1]
    relief = blur(canvas.height, size / 256)
    dx, dy = slopes(relief)
    nx, ny = -dx / canvas.pixel, -dy / canvas.pixel
    inverse = torch.rsqrt(nx * nx + ny * ny + 1)
    facing = (nx * light.x + ny * light.y + light.z) * inverse
    key = ((facing + 0.28) / 1.28).clamp_min(0)
    half_z = torch.sqrt((1 + light.z) * 0.5)
    half = (nx * light.x * 0.5 + ny * light.y * 0.5) / half_z + half_z
    shine = (half * inverse).clamp(0, 1) ** 26 * (0.06 + canvas.gloss)
    wide = blur(canvas.height, size / 18)
    hollow = 1 - ((wide - canvas.height) * 0.75).clamp(0, 0.42)
    edge = 1 - blur(canvas.mask, size / 42)
    outward = ((nx * light.x + ny * light.y) * inverse).clamp(0, 1)
    rim = (edge * 1.7).clamp(0, 1) ** 2 * (0.22 + outward) * canvas.mask
    return Shading(key, shine, rim, hollow)


def lit(canvas: Canvas, light: Light, shading: Shading) -> Tensor:
    """The lit subject [B, 3, H, W] in [0, 1]."""
    tone = canvas.colour * (light.ambient * shading.hollow + light.key * shading.key)
    tone = tone + light.key * shading.shine * 0.8 + light.rim * shading.rim * 0.55
    return roll_off(tone)


def roll_off(tone: Tensor) -> Tensor:
    """Bend highlights softly to 1 instead of clipping them."""
    return torch.where(tone < 0.8, tone, 0.8 + 0.2 * torch.tanh((tone - 0.8) / 0.2)).clamp(0, 1)
