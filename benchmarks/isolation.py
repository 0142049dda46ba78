"""Whether customers' portraits stay apart: many adapters of the miniature, drawn in random order by several threads at once.

    python -m benchmarks.isolation --subjects 50 --json benchmarks/results/isolation-DATE-HOST.json

Unseen subjects of the drawn world are fitted, several in one pass. Then each adapter's portraits are asked for in random order by several
threads over one engine and one adapter cache, whose RAM tier holds only a few of them. Every picture must be bit for bit the one that a
fresh engine draws alone, and the subject whose photos it resembles most must be its own. How often the judge finds it right at all is told
beside that: of real photos, and of pictures that the world itself draws in the same styles. ``--adapters`` keeps them for the next run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import tempfile
import time
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
    """One request: whose portrait, in which style of the catalogue."""

    subject: Subject
    style: str

    @property
    def request(self) -> RenderRequest:
        return RenderRequest(catalogue()[self.style].prompt_for(self.subject.words.in_training), seed=self.subject.number)


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
) -> list[Image.Image]:
    def draw(one: Asked) -> Image.Image:
        loaded, _ = tiers.ensure(rows[one.subject])
        return engine.render(one.request, loaded)[0]

    order = random.Random(0).sample(range(len(asked)), len(asked))
    with ThreadPoolExecutor(threads) as pool:
        pictures = dict(zip(order, pool.map(draw, [asked[n] for n in order]), strict=True))
    return [pictures[n] for n in range(len(asked))]


def drawn_alone(bench: Bench, paths: dict[Subject, Path], one: Asked) -> Image.Image:
    """By an engine that never saw another adapter."""
    return Engine(bench.base).render(one.request, read_adapter(bench.base, paths[one.subject], "alone"))[0]


def nearest(bench: Bench, references: torch.Tensor, pictures: Sequence[Image.Image]) -> list[int]:
    """For each picture the subject whose photos it resembles most, by cosine to their mean [N, D] of the identity encoder."""
    return (bench.identity.embed(list(pictures)) @ references.T).argmax(1).tolist()


def by_style(asked: Sequence[Asked], own: Sequence[bool]) -> dict[str, int]:
    """Of each style's pictures, how many are nearest to their own subject: a style that hides who it is shows here."""
    return {style: sum(hit for one, hit in zip(asked, own, strict=True) if one.style == style) for style in {one.style: 0 for one in asked}}


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
            asked = [Asked(subject, style) for subject in subjects for style in asked_for.styles]
            began = time.perf_counter()
            pictures = drawn_together(Engine(bench.base), tiers, rows, asked, asked_for.threads)
            seconds = time.perf_counter() - began
        alone = {n: drawn_alone(bench, paths, one) for n, one in enumerate(asked) if one.style in asked_for.styles[: asked_for.alone]}
    same = sum(_digest(pictures[n]) == _digest(picture) for n, picture in alone.items())
    found = nearest(bench, references, pictures)
    own = [number == one.subject.number for number, one in zip(found, asked, strict=True)]
    truth = drawn_by_the_world(asked)
    ceiling = [number == one.subject.number for number, one in zip(nearest(bench, references, truth), asked, strict=True)]
    book = Book(asked_for.json, surroundings(bench.base, "miniature"))
    figures = {
        "subjects": len(subjects),
        "pictures": len(asked),
        "threads": asked_for.threads,
        "s": round(seconds, 1),
        "fit_s": round(fit_s, 1),
    }
    verdicts = {"same_as_alone": same, "drawn_alone": len(alone), "nearest_is_own": sum(own), "by_style": by_style(asked, own)}
    verdicts |= {
        "misses": [
            [one.subject.number, one.style, number] for one, number in zip(asked, found, strict=True) if number != one.subject.number
        ]
    }
    verdicts |= {"drawn_by_the_world_nearest_own": sum(ceiling), "drawn_by_style": by_style(asked, ceiling)}
    verdicts |= {"photos_nearest_own": photos_nearest_own(bench, subjects, drawn, references)}
    book.add("isolation", **figures, **verdicts, encoder=bench.identity.id, precision=bench.base.precision.name)


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=50)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--steps", type=int, default=0, help="optimizer steps of each adapter; 0: the recipe's own")
    parser.add_argument("--styles", nargs="+", choices=DRAWN_AS, default=list(STYLES), help="of the catalogue, for each subject")
    parser.add_argument("--alone", type=int, default=1, help="of these, in how many each subject is drawn again, by a fresh engine")
    parser.add_argument("--workers", type=int, default=1, help="processes that fit")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--photos", type=Path, help="folder where drawn photos are kept for the next run")
    parser.add_argument("--adapters", type=Path, help="folder where adapters are kept for the next run")
    parser.add_argument("--json", type=Path)
    return parser


if __name__ == "__main__":
    main()
