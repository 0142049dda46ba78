"""Scenes in plain English. Captions name everything that changes from picture to picture, and nothing of who is drawn."""

from __future__ import annotations

import random

from miniature.world.scene import Scene

STYLE_WORDS: dict[str, tuple[str, ...]] = {
    "photo": ("a photo", "a photograph", "a colour photo"),
    "oil painting": ("an oil painting", "an oil painting on canvas", "a painting in oils"),
    "pencil sketch": ("a pencil sketch", "a pencil drawing", "a graphite sketch"),
    "watercolour": ("a watercolour", "a watercolour painting", "a watercolor"),
    "poster": ("a poster", "a flat screen-printed poster", "a graphic poster"),
    "pixel art": ("a pixel art picture", "pixel art", "a pixel art image"),
    "stained glass": ("a stained glass window", "a stained glass picture", "stained glass art"),
    "neon": ("a neon sign", "a glowing neon picture", "neon art"),
    "comic": ("a comic drawing", "a comic book panel", "a comic picture"),
    "linocut": ("a linocut", "a linocut print", "a carved linocut print"),
}
FRAMING_WORDS: dict[str, tuple[str, ...]] = {
    "close-up": ("in close-up", "close up", "a tight close-up of the face"),
    "portrait": ("head and shoulders", "as a head-and-shoulders portrait", "framed from the shoulders up"),
    "half-length": ("half-length", "showing the upper body", "from the waist up"),
}
POSE_WORDS: dict[str, tuple[str, ...]] = {
    "front": ("seen from the front", "facing the viewer", "looking straight ahead"),
    "left": ("turned to the left", "looking left", "with the head turned left"),
    "right": ("turned to the right", "looking right", "with the head turned right"),
    "up": ("looking up", "gazing upwards", "with the head raised"),
    "down": ("looking down", "gazing downwards", "with the head lowered"),
    "tilted left": ("head tilted to the left", "with the head leaning left", "head tilted left"),
    "tilted right": ("head tilted to the right", "with the head leaning right", "head tilted right"),
}
LIGHT_WORDS: dict[str, tuple[str, ...]] = {
    "soft daylight": ("in soft daylight", "in gentle daylight", "lit by soft daylight"),
    "golden evening light": ("in golden evening light", "in warm golden light", "lit by the golden evening sun"),
    "cool moonlight": ("in cool moonlight", "by moonlight", "in blue moonlight"),
    "strong side light": ("in strong side light", "with strong light from one side", "with dramatic side lighting"),
    "warm candlelight": ("in warm candlelight", "by candlelight", "lit by candles"),
    "bright studio light": ("in bright studio light", "under bright studio lamps", "with bright studio lighting"),
}
BACKGROUND_WORDS: dict[str, tuple[str, ...]] = {
    "plain backdrop": ("against a plain {} backdrop", "in front of a plain {} background", "on a {} studio backdrop"),
    "park": ("in a park with trees", "in a park", "in a green park"),
    "beach": ("on a beach", "on a sandy beach by the sea", "at the beach"),
    "snowy mountains": ("in front of snowy mountains", "in the snowy mountains", "with snowy mountains behind"),
    "city at night": ("in a city at night", "in front of a city at night", "with city lights at night behind"),
    "living room": ("in a living room with a window", "in a living room", "in a cosy living room"),
    "bookshelf": ("in front of a bookshelf", "before a bookshelf", "with shelves of books behind"),
    "starry sky": ("under a starry sky", "against a starry sky", "with stars in the sky behind"),
    "flower meadow": ("in a flower meadow", "in a meadow of flowers", "among meadow flowers"),
    "autumn forest": ("in an autumn forest", "in a forest in autumn", "among autumn trees"),
    "kitchen": ("in a kitchen with tiles", "in a kitchen", "in a tiled kitchen"),
    "sunset": ("in front of a sunset", "at sunset", "against a sunset sky"),
}
_PAIRS = {"round glasses": "round {} glasses", "headphones": "{} headphones", "star earring": "{} star earrings"}
_WEARING = ("with {}", "wearing {}")


def accessory_words(scene: Scene) -> str:
    """The accessory with its article and colour, or "" where there is none."""
    if scene.accessory == "none":
        return ""
    colour = scene.accessory_colour
    if scene.accessory in _PAIRS:
        return _PAIRS[scene.accessory].format(colour)
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {scene.accessory}"


def _subject_words(kind: str, subject: str | None) -> str:
    if subject is None:
        return f"a {kind}"
    return subject


def describe(kind: str, scene: Scene, *, subject: str | None = None) -> str:
    """The one fixed wording of a scene, e.g. "a watercolour of a cat with a red scarf, head and shoulders, …"."""
    worn = accessory_words(scene)
    who = f"{_subject_words(kind, subject)} with {worn}" if worn else _subject_words(kind, subject)
    where = BACKGROUND_WORDS[scene.background][0].format(scene.background_colour)
    parts = (FRAMING_WORDS[scene.framing][0], POSE_WORDS[scene.pose][0], where, LIGHT_WORDS[scene.light][0])
    return f"{STYLE_WORDS[scene.style][0]} of {who}, {', '.join(parts)}"


def caption(kind: str, scene: Scene, rng: random.Random, *, subject: str | None = None) -> str:
    """A varied wording of a scene: style, accessory, framing, pose, background and light, in an order drawn by lot.

    `subject` stands in for "a cat": "zxq cat" gives "a photo of zxq cat …".
    """
    style = rng.choice(STYLE_WORDS[scene.style])
    who = _subject_words(kind, subject)
    worn = accessory_words(scene)
    if worn:
        who = f"{who} {rng.choice(_WEARING).format(worn)}"
    where = rng.choice(BACKGROUND_WORDS[scene.background]).format(scene.background_colour)
    framing, pose, light = (rng.choice(words) for words in (FRAMING_WORDS[scene.framing], POSE_WORDS[scene.pose], LIGHT_WORDS[scene.light]))
    manner = rng.randrange(4)
    if manner == 0:
        return f"{style} of {who}, {framing}, {pose}, {where}, {light}"
    if manner == 1:
        return f"{style} of {who} {where}, {pose}, {framing}, {light}"
    if manner == 2:
        tail = [framing, pose, where, light]
        rng.shuffle(tail)
        return f"{style} of {who}, {', '.join(tail)}"
    return f"{who}, {pose}, {where}, {light}, {framing}, {style}"
