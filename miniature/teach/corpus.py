"""Pictures and captions of the drawn world, rendered once and kept on the device: identities × scenes."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from miniature import world

BASE_SEED = 0  # identities that the transformer sees
ENCODER_SEED = 500_000  # identities that the two judges see: disjoint, so that they judge what they were not taught
BATCH = 384
CONSONANTS, VOWELS = "bdfghjklmnprstvwxz", "aeiou"


@dataclass
class Corpus:
    """``pictures`` uint8 [N, 3, 256, 256], ordered identity by identity, ``scenes_each`` pictures an identity (never shuffled)."""

    pictures: Tensor
    factors: Tensor  # [N, F] in [0, 1]
    subject: Tensor  # bf16 [N, 16, 16]: how much of each 16 × 16 pixels the subject covers
    kind: Tensor  # [N] index into world.KINDS
    scenes: list[world.Scene]
    scenes_each: int

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def identity(self) -> Tensor:
        return torch.arange(len(self), device=self.pictures.device) // self.scenes_each

    def kind_names(self) -> list[str]:
        return [world.KINDS[i] for i in self.kind.tolist()]


def draw_base(identities_a_kind: int, scenes_each: int, device: str) -> Corpus:
    """Every identity in scenes of its own. The first two of each are photos: the references of the Kontext half.

    Scenes take turns between two poses and framings, so that in half of the pairs what belongs together stands at the same place:
    there, comparing a picture with its reference is easy to learn.
    """
    rng = random.Random(1)

    def scenes(_identity: int) -> list[world.Scene]:
        places = [world.sample_scene(rng) for _ in range(2)]

        def scene(j: int) -> world.Scene:
            place = places[j % 2]
            return world.sample_scene(rng, style="photo" if j < 2 else None, pose=place.pose, framing=place.framing)

        return [scene(j) for j in range(scenes_each)]

    return _draw(BASE_SEED, identities_a_kind, scenes_each, scenes, device)


def draw_for_encoders(identities_a_kind: int, scenes_each: int, device: str, group: int = 16, first_seed: int = ENCODER_SEED) -> Corpus:
    """``group`` identities in a row stand in the very same scenes, so that a background never gives a subject away."""
    rng = random.Random(2)
    shared: list[world.Scene] = []

    def scenes(identity: int) -> list[world.Scene]:
        if identity % group == 0:
            shared[:] = [world.sample_scene(rng) for _ in range(scenes_each)]
        return list(shared)

    return _draw(first_seed, identities_a_kind, scenes_each, scenes, device)


def _draw(first_seed: int, identities: int, each: int, scenes_of, device: str) -> Corpus:
    pictures = torch.empty(len(world.KINDS) * identities * each, 3, 256, 256, dtype=torch.uint8, device=device)
    subject = torch.empty(len(pictures), 16, 16, dtype=torch.bfloat16, device=device)
    all_factors, all_kinds, all_scenes = [], [], []
    at = 0
    for kind_index, kind in enumerate(world.KINDS):
        seeds = torch.arange(first_seed, first_seed + identities).repeat_interleave(each)
        scenes = [scene for i in range(identities) for scene in scenes_of(i)]
        factors = world.identity_factors(kind, seeds)
        for start in range(0, len(scenes), BATCH):
            part = slice(start, start + BATCH)
            drawn, mask = world.render_with_mask(kind, factors[part].to(device), scenes[part], device=device)
            pictures[at : at + len(drawn)] = (drawn.clamp(0, 1) * 255 + 0.5).to(torch.uint8)
            subject[at : at + len(drawn)] = torch.nn.functional.avg_pool2d(mask, 16)[:, 0].to(torch.bfloat16)
            at += len(drawn)
        all_factors.append(factors)
        all_kinds.append(torch.full((len(scenes),), kind_index))
        all_scenes += scenes
    return Corpus(pictures, torch.cat(all_factors).to(device), subject, torch.cat(all_kinds).to(device), all_scenes, each)


def pseudo_word(rng: random.Random) -> str:
    """A pronounceable word without meaning, as trigger tokens are: the base must learn that it says nothing."""
    return "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(2, 3))) + rng.choice(CONSONANTS)


def captions_of(corpus: Corpus, wordings: int, seed: int = 3) -> list[str]:
    """``wordings`` captions a picture, row by row; in a sixth of them a meaningless word stands before the class word."""
    rng = random.Random(seed)
    texts = []
    for kind, scene in zip(corpus.kind_names(), corpus.scenes, strict=True):
        for _ in range(wordings):
            subject = f"{pseudo_word(rng)} {kind}" if rng.random() < 1 / 6 else None
            text = world.caption(kind, scene, rng, subject=subject)
            texts.append(text[0].upper() + text[1:] if rng.random() < 0.15 else text)
    return texts
