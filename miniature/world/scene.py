"""What is around an identity: the words of the drawn world, and how scenes are drawn by lot."""

from __future__ import annotations

import random
from dataclasses import dataclass

STYLES = (
    "photo",
    "oil painting",
    "pencil sketch",
    "watercolour",
    "poster",
    "pixel art",
    "stained glass",
    "neon",
    "comic",
    "linocut",
)
FRAMINGS = ("close-up", "portrait", "half-length")
POSES = ("front", "left", "right", "up", "down", "tilted left", "tilted right")
LIGHTS = ("soft daylight", "golden evening light", "cool moonlight", "strong side light", "warm candlelight", "bright studio light")
BACKGROUND_COLOURS: dict[str, tuple[str, ...]] = {
    "plain backdrop": ("blue", "pink", "yellow", "teal", "grey", "green", "orange", "purple", "cream"),
    "park": (),
    "beach": (),
    "snowy mountains": (),
    "city at night": (),
    "living room": (),
    "bookshelf": (),
    "starry sky": (),
    "flower meadow": (),
    "autumn forest": (),
    "kitchen": (),
    "sunset": (),
}
BACKGROUNDS = tuple(BACKGROUND_COLOURS)
ACCESSORY_COLOURS: dict[str, tuple[str, ...]] = {
    "none": (),
    "scarf": ("red", "blue", "green", "yellow", "purple"),
    "round glasses": ("black", "gold", "red", "blue"),
    "top hat": ("black", "purple", "green", "red"),
    "crown": ("gold", "silver"),
    "bow tie": ("red", "blue", "black", "pink", "green"),
    "flower crown": ("pink", "white", "yellow", "purple"),
    "headphones": ("white", "black", "red", "teal"),
    "beanie": ("red", "blue", "orange", "green", "grey"),
    "bandana": ("red", "blue", "yellow", "green"),
    "star earring": ("gold", "silver", "red"),
    "party hat": ("pink", "blue", "yellow", "green"),
    "beret": ("red", "black", "blue", "green"),
}
ACCESSORIES = tuple(ACCESSORY_COLOURS)

HELD_OUT_STYLE_ACCESSORY = (
    ("watercolour", "top hat"),
    ("oil painting", "headphones"),
    ("pencil sketch", "crown"),
    ("pixel art", "scarf"),
    ("stained glass", "round glasses"),
    ("neon", "bow tie"),
    ("poster", "beanie"),
    ("comic", "flower crown"),
)
"""Style and accessory pairs that teaching never shows, so that combining can be tested."""

PHOTO_SHARE = 0.35
NO_ACCESSORY_SHARE = 0.2
JITTER_LIMIT = 1 << 31


@dataclass(frozen=True)
class Scene:
    """Everything but the identity that a picture depends on. Colours are "" where the thing has none."""

    style: str = "photo"
    accessory: str = "none"
    accessory_colour: str = ""
    background: str = "plain backdrop"
    background_colour: str = ""
    framing: str = "portrait"
    pose: str = "front"
    light: str = "soft daylight"
    jitter: int = 0

    def __post_init__(self) -> None:
        for field, value, allowed in (
            ("style", self.style, STYLES),
            ("accessory", self.accessory, ACCESSORIES),
            ("background", self.background, BACKGROUNDS),
            ("framing", self.framing, FRAMINGS),
            ("pose", self.pose, POSES),
            ("light", self.light, LIGHTS),
        ):
            if value not in allowed:
                raise ValueError(f"unknown {field} {value!r}; the drawn world has: {', '.join(allowed)}")
        for field, thing, colours in (
            ("accessory_colour", self.accessory, ACCESSORY_COLOURS),
            ("background_colour", self.background, BACKGROUND_COLOURS),
        ):
            choices = colours[thing]
            if not getattr(self, field) and choices:
                object.__setattr__(self, field, choices[0])
            elif getattr(self, field) and getattr(self, field) not in choices:
                raise ValueError(f"{thing} comes in {', '.join(choices) or 'no named colours'}; {field} was {getattr(self, field)!r}")


def _draw_style(rng: random.Random) -> str:
    return "photo" if rng.random() < PHOTO_SHARE else rng.choice(STYLES[1:])


def _draw_accessory(rng: random.Random, style: str, allow_held_out: bool) -> str:
    if rng.random() < NO_ACCESSORY_SHARE:
        return "none"
    allowed = [a for a in ACCESSORIES[1:] if allow_held_out or (style, a) not in HELD_OUT_STYLE_ACCESSORY]
    return rng.choice(allowed)


def _draw_pose(rng: random.Random) -> str:
    return "front" if rng.random() < 0.3 else rng.choice(POSES[1:])


def sample_scene(rng: random.Random, *, style: str | None = None, allow_held_out: bool = False, **fixed) -> Scene:
    """Draw a scene by lot; any field of Scene may be fixed by name.

    Held-out pairs of style and accessory come only with `allow_held_out`, or where both are fixed by the caller.
    """
    draw = {
        "background": lambda: rng.choice(BACKGROUNDS),
        "framing": lambda: rng.choice(FRAMINGS),
        "pose": lambda: _draw_pose(rng),
        "light": lambda: rng.choice(LIGHTS),
        "jitter": lambda: rng.randrange(JITTER_LIMIT),
    }
    words: dict = {name: fixed[name] if name in fixed else lot() for name, lot in draw.items()}
    if style is None and "accessory" in fixed and not allow_held_out:
        taken = {s for s, a in HELD_OUT_STYLE_ACCESSORY if a == fixed["accessory"]}
        while (drawn := _draw_style(rng)) in taken:
            pass
        words["style"] = drawn
    else:
        words["style"] = style or _draw_style(rng)
    words["accessory"] = fixed["accessory"] if "accessory" in fixed else _draw_accessory(rng, words["style"], allow_held_out)
    for field, table, thing in (
        ("accessory_colour", ACCESSORY_COLOURS, words["accessory"]),
        ("background_colour", BACKGROUND_COLOURS, words["background"]),
    ):
        words[field] = fixed.get(field) or (rng.choice(table[thing]) if table.get(thing) else "")
    unknown = set(fixed) - set(words)
    if unknown:
        raise TypeError(f"a scene has no {', '.join(sorted(unknown))}")
    return Scene(**words)
