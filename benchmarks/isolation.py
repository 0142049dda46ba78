"""Whether customers' portraits stay apart: many adapters of the miniature, drawn in random order by several threads at once.

    python -m benchmarks.isolation --subjects 50 --json benchmarks/results/isolation-DATE-HOST.json

Unseen subjects of the drawn world are fitted, several in one pass. Then each adapter's portraits are asked for in random order by several
threads over one engine and one adapter cache, whose RAM tier holds only a few of them. Every picture must be bit for bit the one that a
fresh engine draws alone, and the subject whose photos it resembles most must be its own; with ``--best-of``, which customers can ask for
too, the most alike of so many pictures counts. How often the judge finds it right at all is told beside that: of real photos, and of
pictures that the world itself draws in the same styles. ``--adapters`` keeps them for the next run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from PIL import Image

from benchmarks.measuring import Book, surroundings
from benchmarks.render_switch import open_storage_of, shelve
from core.settings import Settings
from core.styles import catalogue
from inference.adapters import AdapterCache
from inference.engine import Engine
from inference.reading import read_adapter
from inference.requests import RenderRequest
from miniature.world import KINDS, UNSEEN_SEED_START, Scene, identity_factors, render
from miniature.world.photos import draw_photo_set, to_image
from storage.folder import FolderStore
from storage.tables import Adapter
from trainer.bench import Bench
from trainer.caches import CaptionedPhoto, build_cache
from trainer.captions import SubjectWords, caption_photos
from trainer.checkpoints import CheckpointFolder
from trainer.fit import fit_together
from trainer.loading import load_bench
from trainer.member import FitOrder
from trainer.photos import from_images
from trainer.recipe import Recipe

FIRST_SUBJECT = UNSEEN_SEED_START + 70_000
PHOTOS = 12
STYLES = ("studio-photo", "oil-painting", "watercolour")
TOGETHER = {"cuda": 4, "cpu": 10}  # on a GPU no more than are recorded as one graph: launches are what a small base waits for
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


def fitted(bench: Bench, subjects: Sequence[Subject], drawn: Path, folder: Path, steps: int) -> dict[Subject, Path]:
    """Adapter files, those that are in the folder already included."""
    paths = {subject: folder / f"{subject.number}.safetensors" for subject in subjects}
    missing = [subject for subject in subjects if not paths[subject].exists()]
    together = TOGETHER[bench.base.device.type]
    for start in range(0, len(missing), together):
        some = missing[start : start + together]
        with tempfile.TemporaryDirectory() as scratch:
            orders = [_order(bench, subject, drawn, Path(scratch) / str(subject.number), steps) for subject in some]
            for subject, fitting in zip(some, fit_together(bench.base, orders), strict=True):
                if fitting.error:
                    raise fitting.error
                folder.mkdir(parents=True, exist_ok=True)
                paths[subject].write_bytes(fitting.candidates[max(fitting.candidates)].read_bytes())
        print(f"{time.strftime('%H:%M:%S')} fitted {start + len(some)} of {len(missing)}", flush=True)
    return paths


def fitted_side_by_side(subjects: Sequence[Subject], drawn: Path, folder: Path, steps: int, precision: str, workers: int) -> None:
    """By processes of their own, each with a base of its own: one of them does not keep a GPU busy with a small base."""
    shares = [subjects[n::workers] for n in range(workers)]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for done in [pool.submit(_share, share, drawn, folder, steps, precision) for share in shares]:
            done.result()


def _share(subjects: Sequence[Subject], drawn: Path, folder: Path, steps: int, precision: str) -> None:
    fitted(load_bench(Settings(precision=precision)), subjects, drawn, folder, steps)


def _order(bench: Bench, subject: Subject, drawn: Path, folder: Path, steps: int) -> FitOrder:
    photos = from_images(subject.photos(drawn))
    captions = caption_photos(photos, subject.words, bench.text_image)
    captioned = [CaptionedPhoto(photo.key, photo.image, caption) for photo, caption in zip(photos, captions, strict=True)]
    recipe = Recipe.for_run(len(photos), bench.base, {"steps": steps, "candidates": (1.0,)} if steps else {"candidates": (1.0,)})
    return FitOrder(build_cache(bench.base, captioned, recipe.resolution), recipe, CheckpointFolder(folder, {}), seed=subject.number)


def drawn_together(
    engine: Engine, tiers: AdapterCache, rows: dict[Subject, Adapter], asked: Sequence[Asked], threads: int
) -> list[list[Image.Image]]:
    def draw(one: Asked) -> list[Image.Image]:
        loaded, _ = tiers.ensure(rows[one.subject])
        return engine.render(one.request, loaded)

    order = random.Random(0).sample(range(len(asked)), len(asked))
    with ThreadPoolExecutor(threads) as pool:
        pictures = dict(zip(order, pool.map(draw, [asked[n] for n in order]), strict=True))
    return [pictures[n] for n in range(len(asked))]


def drawn_alone(bench: Bench, paths: dict[Subject, Path], one: Asked) -> list[Image.Image]:
    """By an engine that never saw another adapter."""
    return Engine(bench.base).render(one.request, read_adapter(bench.base, paths[one.subject], "alone"))


def cosines(bench: Bench, references: torch.Tensor, pictures: Sequence[Image.Image]) -> torch.Tensor:
    """[pictures, subjects]: each picture's to the mean of each subject's photos, ``references`` [subjects, D], of the identity encoder."""
    return bench.identity.embed(list(pictures)) @ references.T


def most_alike(asked: Sequence[Asked], near: torch.Tensor) -> torch.Tensor:
    """[requests, subjects]: of ``near`` [requests, best_of, subjects] the picture most like its own subject, which customers see first."""
    own = torch.stack([pictures[:, one.subject.number] for one, pictures in zip(asked, near, strict=True)])
    return near[torch.arange(len(asked)), own.argmax(1)]


def verdict(asked: Sequence[Asked], near: torch.Tensor) -> dict[str, object]:
    """Of pictures with cosines ``near`` [requests, subjects]: how many are nearest to their own subject, and which are not, and to whom."""
    found = near.argmax(1).tolist()
    hits = [number == one.subject.number for one, number in zip(asked, found, strict=True)]
    by_style = Counter(one.style for one, hit in zip(asked, hits, strict=True) if hit)
    misses = [[one.subject.number, one.style, number] for one, number, hit in zip(asked, found, hits, strict=True) if not hit]
    return {"nearest_is_own": sum(hits), "by_style": by_style, "misses": misses}


def drawn_by_the_world(asked: Sequence[Asked]) -> list[Image.Image]:
    """The same subjects in the same styles, from head to shoulders, as a perfect adapter would have them."""
    images = []
    for n, one in enumerate(asked):
        scene = Scene(style=DRAWN_AS[one.style], background="park", framing="portrait", jitter=n)
        factors = identity_factors(one.subject.kind, torch.tensor([FIRST_SUBJECT + one.subject.number]))
        images.append(to_image(render(one.subject.kind, factors, [scene])[0]))
    return images


def photos_nearest_own(bench: Bench, subjects: Sequence[Subject], drawn: Path, references: torch.Tensor) -> float:
    """The ceiling: the share of real photos that the judge finds nearest to their own subject's other photos."""
    hits = []
    for n, subject in enumerate(subjects):
        embeds = bench.identity.embed(subject.photos(drawn))
        near = embeds @ references.T
        others = (embeds.sum(0, keepdim=True) - embeds) / (len(embeds) - 1)  # a photo is not compared with itself
        near[:, n] = (embeds * others).sum(1)
        hits += (near.argmax(1) == n).tolist()
    return round(sum(hits) / len(hits), 4)


def main(arguments: Sequence[str] | None = None) -> None:
    asked_for = _parser().parse_args(arguments)
    bench = load_bench(Settings(precision=asked_for.precision))
    subjects = [Subject(number) for number in range(asked_for.subjects)]
    with tempfile.TemporaryDirectory() as scratch:
        drawn = asked_for.photos or Path(scratch) / "photos"
        draw_photos(subjects, drawn)
        references = torch.stack([bench.identity.embed(subject.photos(drawn)).mean(0) for subject in subjects])
        began, adapters = time.perf_counter(), asked_for.adapters or Path(scratch) / "adapters"
        if asked_for.workers > 1:
            fitted_side_by_side(subjects, drawn, adapters, asked_for.steps, asked_for.precision, asked_for.workers)
        paths = fitted(bench, subjects, drawn, adapters, asked_for.steps)
        fit_s = time.perf_counter() - began
        bench.seats.remove()
        with open_storage_of(
            Path(scratch), FolderStore(Path(scratch) / "objects", b"", ""), few=paths[subjects[0]].stat().st_size * 5
        ) as storage:
            rows = {subject: shelve(storage, subject.number, path) for subject, path in paths.items()}
            tiers = AdapterCache(storage, partial(read_adapter, bench.base))
            asked = [Asked(subject, style, asked_for.best_of) for subject in subjects for style in asked_for.styles]
            began = time.perf_counter()
            pictures = drawn_together(Engine(bench.base), tiers, rows, asked, asked_for.threads)
            seconds = time.perf_counter() - began
        alone = {n: drawn_alone(bench, paths, one) for n, one in enumerate(asked) if one.style in asked_for.styles[: asked_for.alone]}
    same = sum(_digest(one) == _digest(other) for n, some in alone.items() for one, other in zip(some, pictures[n], strict=True))
    near = torch.stack([cosines(bench, references, some) for some in pictures])
    book = Book(asked_for.json, surroundings(bench.base, "miniature"))
    book.add(
        "isolation",
        subjects=len(subjects),
        requests=len(asked),
        best_of=asked_for.best_of,
        threads=asked_for.threads,
        s=round(seconds, 1),
        fit_s=round(fit_s, 1),
        fit_steps=asked_for.steps or "recipe",
        same_as_alone=same,
        drawn_alone=sum(map(len, alone.values())),
        most_alike=verdict(asked, most_alike(asked, near)),
        first=verdict(asked, near[:, 0]),
        drawn_by_the_world=verdict(asked, cosines(bench, references, drawn_by_the_world(asked))),
        photos_nearest_own=photos_nearest_own(bench, subjects, drawn, references),
        encoder=bench.identity.id,
        precision=bench.base.precision.name,
    )


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=50)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--steps", type=int, default=0, help="optimizer steps of each adapter; 0: the recipe's own")
    parser.add_argument("--styles", nargs="+", choices=DRAWN_AS, default=list(STYLES), help="of the catalogue, for each subject")
    parser.add_argument("--best-of", type=int, default=1, help="pictures a request, of which the one most like its subject counts")
    parser.add_argument("--alone", type=int, default=1, help="of these, in how many each subject is drawn again, by a fresh engine")
    parser.add_argument("--workers", type=int, default=1, help="processes that fit")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--photos", type=Path, help="folder where drawn photos are kept for the next run")
    parser.add_argument("--adapters", type=Path, help="folder where adapters are kept for the next run")
    parser.add_argument("--json", type=Path)
    return parser


if __name__ == "__main__":
    main()
