"""Whether customers' portraits stay apart: many adapters of the miniature, drawn in random order by several threads at once.

    python -m benchmarks.isolation --subjects 50 --json benchmarks/results/isolation-DATE-HOST.json

Unseen subjects of the drawn world are fitted, several in one pass. Then each adapter's portraits are asked for in random order by several
threads over one engine and one adapter cache, whose RAM tier holds only a few of them. Every picture must be bit for bit the one that a
fresh engine draws alone, and the subject whose photos it resembles most must be its own. As in the service a picture that is not like its
subject is drawn again (``--redraw-below``, ``--redraws``) unless the best of several is asked for (``--best-of``), of which the most alike
counts. How often the judge finds it right at all is told beside that: of real photos, and of pictures that the world itself draws in the
same scenes. Photos tell likeness as well; whose adapter drew a picture is told by what each adapter draws alone (``--gallery``).
``--sheet`` shows the portraits that photos take for somebody else's. ``--adapters`` keeps them for the next run.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.drawer import card_of, plain_embeds
from benchmarks.isolation_drawing import Drawn, Rule, drawn_alone, drawn_together, galleries_alone
from benchmarks.isolation_judge import Judge, most_alike
from benchmarks.isolation_sheet import missed, sheet_of_misses
from benchmarks.isolation_subjects import DRAWN_AS, Asked, Subject, draw_photos
from benchmarks.measuring import Book, surroundings
from benchmarks.render_switch import open_storage_of, shelve
from core.settings import Settings
from inference.adapters import AdapterCache
from inference.reading import read_adapter
from storage.folder import FolderStore
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


def main(arguments: Sequence[str] | None = None) -> None:
    asked_for = _asked_for(arguments)
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
        galleries = galleries_alone(bench, rule, paths, asked, asked_for.gallery)
    same = sum(_digest(one) == _digest(other) for n, some in alone.items() for one, other in zip(some, drawn_now[n].kept, strict=True))
    shown, verdicts = _judged(bench, judge, asked, drawn_now, galleries)
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
        gallery=asked_for.gallery,
        **verdicts,
        photos_nearest_own=judge.photos_nearest_own(),
        encoder=bench.identity.id,
        precision=bench.base.precision.name,
    )
    if asked_for.sheet:
        portraits = [pictures.kept[n] for pictures, n in zip(drawn_now, shown, strict=True)]
        by_subject = dict(zip(subjects, photos, strict=True))
        misses = missed({way: verdicts["kept"][way] for way in ("plain", "centred")})
        sheet_of_misses(asked, portraits, [some[0] for some in galleries], by_subject, misses).save(asked_for.sheet)


def _judged(
    bench: Bench, judge: Judge, asked: Sequence[Asked], drawn: Sequence[Drawn], galleries: Sequence[Sequence[Image.Image]]
) -> tuple[list[int], dict[str, Any]]:
    """Which picture of each request a customer sees first, and whose each is: as kept, as it came first, and as the world would draw it."""
    alone = torch.stack([bench.identity.embed(some) for some in galleries])
    every = torch.stack([bench.identity.embed(pictures.kept) for pictures in drawn])
    shown = most_alike(asked, judge.cosines(every))
    first = bench.identity.embed([pictures.first[0] for pictures in drawn])
    by_the_world = bench.identity.embed([one.drawn_by_the_world(n) for n, one in enumerate(asked)])
    return shown, {
        "kept": judge.verdicts(asked, every[torch.arange(len(asked)), shown], alone),
        "first": judge.verdicts(asked, first, alone),
        "drawn_by_the_world": judge.verdicts(asked, by_the_world),
    }


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def _asked_for(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=50)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--steps", type=int, default=0, help="optimizer steps of each adapter; 0: the recipe's own")
    parser.add_argument("--styles", nargs="+", choices=DRAWN_AS, default=list(STYLES), help="of the catalogue, for each subject")
    parser.add_argument("--best-of", type=int, default=1, help="pictures a request, of which the one most like its subject counts")
    parser.add_argument("--redraw-below", type=float, default=Settings().redraw_below, help="likeness below which a picture is drawn again")
    parser.add_argument("--redraws", type=int, default=Settings().redraws, help="how often at most, where --best-of is 1")
    parser.add_argument("--alone", type=int, default=1, help="of these, in how many each subject is drawn again, by a fresh engine")
    parser.add_argument("--gallery", type=int, default=3, help="pictures that each adapter draws alone in each style, to compare with")
    parser.add_argument("--sheet", type=Path, help="picture of the portraits that are nearest to somebody else's photos")
    parser.add_argument("--workers", type=int, default=1, help="processes that fit")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--photos", type=Path, help="folder where drawn photos are kept for the next run")
    parser.add_argument("--adapters", type=Path, help="folder where adapters are kept for the next run")
    parser.add_argument("--json", type=Path)
    asked_for = parser.parse_args(arguments)
    if asked_for.sheet and not asked_for.gallery:
        parser.error("--sheet shows what each adapter draws alone: it needs a --gallery of at least one")
    return asked_for


if __name__ == "__main__":
    main()
