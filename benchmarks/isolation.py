"""Whether customers' portraits stay apart: many adapters of the miniature, drawn in random order by several threads at once.

    python -m benchmarks.isolation --subjects 50 --json benchmarks/results/isolation-DATE-HOST.json

Unseen subjects of the drawn world are fitted, several in one pass. Then each adapter's portraits are asked for in random order by several
threads over one engine and one adapter cache, whose RAM tier holds only a few of them. Every picture must be bit for bit the one that a
fresh engine draws alone, and the subject whose photos it resembles most must be its own. As in the service a picture that is not like its
subject is drawn again (``--redraw-below``, ``--redraws``) unless the best of several is asked for (``--best-of``), of which the most alike
counts. How often the judge finds it right at all is told beside that: of real photos, and of pictures that the world itself draws in the
same styles. ``--adapters`` keeps them for the next run.
"""

from __future__ import annotations

import argparse
import hashlib
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

from benchmarks.drawer import Card, Drawer, card_of, plain_embeds
from benchmarks.isolation_judge import Judge, drawn_by_the_world, most_alike
from benchmarks.isolation_subjects import DRAWN_AS, Asked, Subject, draw_photos
from benchmarks.measuring import Book, surroundings
from benchmarks.render_switch import open_storage_of, shelve
from core.settings import Settings
from inference.adapters import AdapterCache
from inference.engine import Engine
from inference.loaded import LoadedAdapter
from inference.reading import read_adapter
from storage.folder import FolderStore
from storage.tables import Adapter
from trainer.bench import Bench
from trainer.caches import CaptionedPhoto, build_cache
from trainer.captions import caption_photos
from trainer.checkpoints import CheckpointFolder
from trainer.fit import fit_together
from trainer.loading import load_bench
from trainer.member import FitOrder
from trainer.photos import from_images
from trainer.recipe import Recipe

STYLES = ("studio-photo", "oil-painting", "watercolour")
TOGETHER = {"cuda": 4, "cpu": 10}  # on a GPU no more than are recorded as one graph: launches are what a small base waits for


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


@dataclass(frozen=True)
class Drawn:
    """A request's pictures as the engine gave them first, and those that a customer gets."""

    first: list[Image.Image]
    kept: list[Image.Image]


@dataclass(frozen=True)
class Rule:
    """When a picture is drawn again: below ``least``, ``rounds`` times at most. ``cards``: what scoring needs to know of each subject."""

    cards: dict[Subject, Card]
    least: float
    rounds: int

    def drawer(self, bench: Bench, best_of: int) -> Drawer:
        return Drawer(Engine(bench.base), bench.identity, self.least, self.rounds if best_of == 1 else 0)

    def draw(self, drawer: Drawer, one: Asked, adapter: LoadedAdapter) -> Drawn:
        first, kept = drawer.tries(one.request, adapter, self.cards[one.subject])
        return Drawn([picture.image for picture in first], [picture.image for picture in kept])


def drawn_together(
    drawer: Drawer, rule: Rule, tiers: AdapterCache, rows: dict[Subject, Adapter], asked: Sequence[Asked], threads: int
) -> list[Drawn]:
    def draw(one: Asked) -> Drawn:
        loaded, _ = tiers.ensure(rows[one.subject])
        return rule.draw(drawer, one, loaded)

    order = random.Random(0).sample(range(len(asked)), len(asked))
    with ThreadPoolExecutor(threads) as pool:
        pictures = dict(zip(order, pool.map(draw, [asked[n] for n in order]), strict=True))
    return [pictures[n] for n in range(len(asked))]


def drawn_alone(bench: Bench, rule: Rule, paths: dict[Subject, Path], one: Asked) -> Drawn:
    """By an engine that never saw another adapter."""
    return rule.draw(rule.drawer(bench, one.best_of), one, read_adapter(bench.base, paths[one.subject], "alone"))


def main(arguments: Sequence[str] | None = None) -> None:
    asked_for = _parser().parse_args(arguments)
    bench = load_bench(Settings(precision=asked_for.precision))
    subjects = [Subject(number) for number in range(asked_for.subjects)]
    with tempfile.TemporaryDirectory() as scratch:
        drawn = asked_for.photos or Path(scratch) / "photos"
        draw_photos(subjects, drawn)
        photos = [subject.photos(drawn) for subject in subjects]
        judge = Judge([bench.identity.embed(some) for some in photos])
        began, adapters = time.perf_counter(), asked_for.adapters or Path(scratch) / "adapters"
        if asked_for.workers > 1:
            fitted_side_by_side(subjects, drawn, adapters, asked_for.steps, asked_for.precision, asked_for.workers)
        paths = fitted(bench, subjects, drawn, adapters, asked_for.steps)
        fit_s = time.perf_counter() - began
        plain = plain_embeds(bench, (subject.kind for subject in subjects))
        cards = {subject: card_of(bench.identity, some, plain[subject.kind]) for subject, some in zip(subjects, photos, strict=True)}
        rule = Rule(cards, asked_for.redraw_below, asked_for.redraws)
        bench.seats.remove()
        with open_storage_of(
            Path(scratch), FolderStore(Path(scratch) / "objects", b"", ""), few=paths[subjects[0]].stat().st_size * 5
        ) as storage:
            rows = {subject: shelve(storage, subject.number, path) for subject, path in paths.items()}
            tiers = AdapterCache(storage, partial(read_adapter, bench.base))
            asked = [Asked(subject, style, asked_for.best_of) for subject in subjects for style in asked_for.styles]
            drawer, began = rule.drawer(bench, asked_for.best_of), time.perf_counter()
            drawn_now = drawn_together(drawer, rule, tiers, rows, asked, asked_for.threads)
            seconds = time.perf_counter() - began
        alone = {
            n: drawn_alone(bench, rule, paths, one).kept for n, one in enumerate(asked) if one.style in asked_for.styles[: asked_for.alone]
        }
    same = sum(_digest(one) == _digest(other) for n, some in alone.items() for one, other in zip(some, drawn_now[n].kept, strict=True))
    kept = torch.stack([bench.identity.embed(pictures.kept) for pictures in drawn_now])
    first = torch.cat([bench.identity.embed(pictures.first[:1]) for pictures in drawn_now])
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
        redraw_below=rule.least,
        redraws=drawer.rounds,
        drawn=drawer.drawn,
        same_as_alone=same,
        drawn_alone=sum(map(len, alone.values())),
        kept=judge.verdicts(asked, most_alike(asked, kept, judge.cosines(kept))),
        first=judge.verdicts(asked, first),
        drawn_by_the_world=judge.verdicts(asked, bench.identity.embed(drawn_by_the_world(asked))),
        photos_nearest_own=judge.photos_nearest_own(),
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
    parser.add_argument("--redraw-below", type=float, default=Settings().redraw_below, help="likeness below which a picture is drawn again")
    parser.add_argument("--redraws", type=int, default=Settings().redraws, help="how often at most, where --best-of is 1")
    parser.add_argument("--alone", type=int, default=1, help="of these, in how many each subject is drawn again, by a fresh engine")
    parser.add_argument("--workers", type=int, default=1, help="processes that fit")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--photos", type=Path, help="folder where drawn photos are kept for the next run")
    parser.add_argument("--adapters", type=Path, help="folder where adapters are kept for the next run")
    parser.add_argument("--json", type=Path)
    return parser


if __name__ == "__main__":
    main()
