"""The drawn world: small portraits in which who is shown is never captioned, and everything else always is."""

from miniature.world.captions import caption, describe
from miniature.world.identity import FACTOR_NAMES, KINDS, UNSEEN_SEED_START, identity_factors
from miniature.world.render import render, render_with_mask, subject_mask
from miniature.world.scene import (
    ACCESSORIES,
    BACKGROUNDS,
    FRAMINGS,
    HELD_OUT_STYLE_ACCESSORY,
    LIGHTS,
    POSES,
    STYLES,
    Scene,
    sample_scene,
)

__all__ = [
    "ACCESSORIES",
    "BACKGROUNDS",
    "FACTOR_NAMES",
    "FRAMINGS",
    "HELD_OUT_STYLE_ACCESSORY",
    "KINDS",
    "LIGHTS",
    "POSES",
    "STYLES",
    "UNSEEN_SEED_START",
    "Scene",
    "caption",
    "describe",
    "identity_factors",
    "render",
    "render_with_mask",
    "sample_scene",
    "subject_mask",
]
