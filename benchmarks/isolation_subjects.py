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
from miniature.world import KINDS, UNSEEN_SEED_START
from miniature.world.photos import draw_photo_set
from trainer.captions import SubjectWords

FIRST_SUBJECT = UNSEEN_SEED_START + 70_000
PHOTOS = 12
DRAWN_AS = {style: style.replace("studio-", "").replace("-", " ") for style in catalogue()}  # as the world calls them


@dataclass(frozen=True)
class Subject:
    number: int

    @property
    def kind(self) -> str:
        return KINDS[self.number % len(KINDS)]

    @property
    def words(self) -> SubjectWords:
        return SubjectWords(f"zorvx{self.number}", self.kind)

    def photos(self, drawn: Path) -> list[Image.Image]:
        return [Image.open(path).convert("RGB") for path in sorted((drawn / str(self.number)).glob("*.jpg"))]


def draw_photos(subjects: Sequence[Subject], folder: Path) -> None:
    """Drawing takes a second a photo and core, so subjects are drawn side by side; what is there already stays."""
    missing = [subject for subject in subjects if not (folder / str(subject.number)).exists()]
    with ProcessPoolExecutor(max(1, len(os.sched_getaffinity(0)) - 1), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        made = [pool.submit(draw_photo_set, one.kind, FIRST_SUBJECT + one.number, PHOTOS, folder / str(one.number)) for one in missing]
        for one in made:
            one.result()


@dataclass(frozen=True)
class Asked:
    """One request: whose portrait, in which style of the catalogue, and the best of how many."""

    subject: Subject
    style: str
    best_of: int = 1

    @property
    def request(self) -> RenderRequest:
        prompt = catalogue()[self.style].prompt_for(self.subject.words.in_training)
        return RenderRequest(prompt, seed=self.subject.number, count=self.best_of)
