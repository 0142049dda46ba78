"""Who is told apart: unseen subjects of the drawn world, their photos, and what is asked of their adapters."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from PIL import Image

from core.styles import catalogue
from inference.requests import RenderRequest
from miniature.world import KINDS, UNSEEN_SEED_START, Scene, identity_factors, render
from miniature.world.captions import BACKGROUND_WORDS, LIGHT_WORDS
from miniature.world.photos import draw_photo_set, to_image
from miniature.world.scene import BACKGROUND_COLOURS
from trainer.captions import SubjectWords

FIRST_SUBJECT = UNSEEN_SEED_START + 70_000
PHOTOS = 12  # a subject
DRAWN_AS = {style: style.replace("studio-", "").replace("-", " ") for style in catalogue()}  # as the world calls them


@dataclass(frozen=True)
class Subject:
    """``first``: the world's seed of number 0; other seeds, other subjects."""

    number: int
    first: int = FIRST_SUBJECT

    @property
    def seed(self) -> int:
        return self.first + self.number

    @property
    def kind(self) -> str:
        return KINDS[self.number % len(KINDS)]

    @property
    def words(self) -> SubjectWords:
        return SubjectWords(f"zorvx{self.number}", self.kind)

    def files(self, drawn: Path) -> list[Path]:
        return sorted((drawn / str(self.number)).glob("*.jpg"))

    def photos(self, drawn: Path) -> list[Image.Image]:
        return [Image.open(path).convert("RGB") for path in self.files(drawn)]


def draw_photos(subjects: Sequence[Subject], folder: Path, photos: int = PHOTOS) -> None:
    """Drawing takes a second a photo and core, so subjects are drawn side by side; what is there already stays."""
    missing = [subject for subject in subjects if not (folder / str(subject.number)).exists()]
    with ProcessPoolExecutor(max(1, len(os.sched_getaffinity(0)) - 1), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        made = [pool.submit(draw_photo_set, one.kind, one.seed, photos, folder / str(one.number)) for one in missing]
        for one in made:
            one.result()
    found = {len(subject.files(folder)) for subject in subjects}
    if found != {photos}:
        raise ValueError(f"{folder} holds {sorted(found)} photos a subject, not {photos}: name another folder")


def scene_of(style: str, jitter: int) -> Scene:
    """What the style's prompt says, as the world draws it: its background and light, from head to shoulders."""
    prompt = catalogue()[style].prompt
    background, colour = next(
        (name, colour)
        for name, ways in BACKGROUND_WORDS.items()
        for colour in BACKGROUND_COLOURS[name] or ("",)
        if any(way.format(colour) in prompt for way in ways)
    )
    light = next(name for name, ways in LIGHT_WORDS.items() if any(way in prompt for way in ways))
    return Scene(style=DRAWN_AS[style], background=background, background_colour=colour, light=light, framing="portrait", jitter=jitter)


@dataclass(frozen=True)
class Asked:
    """One request: whose portrait, in which style of the catalogue, and the best of how many."""

    subject: Subject
    style: str
    best_of: int = 1
    shift: int = 0  # of the seed

    def drawn_by_the_world(self, jitter: int) -> Image.Image:
        """As a perfect adapter would have it."""
        factors = identity_factors(self.subject.kind, torch.tensor([self.subject.seed]))
        return to_image(render(self.subject.kind, factors, [scene_of(self.style, jitter)])[0])

    @property
    def request(self) -> RenderRequest:
        prompt = catalogue()[self.style].prompt_for(self.subject.words.in_training)
        return RenderRequest(prompt, seed=self.subject.number + self.shift, count=self.best_of)
