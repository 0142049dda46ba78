"""Whether customers' portraits stay apart: many adapters of the miniature, drawn in random order by several threads at once.

    python -m benchmarks.isolation --subjects 50 --json benchmarks/results/isolation-DATE-HOST.json

Unseen subjects of the drawn world are fitted, several in one pass. Then each adapter's portraits are asked for in random order by several
threads over one engine and one adapter cache, whose RAM tier holds only a few of them. Every picture must be bit for bit the one that a
fresh engine draws alone, and the subject whose photos it resembles most must be its own. As in the service a picture that is not like its
subject is drawn again (``--redraw-below``, ``--redraws``) unless the best of several is asked for (``--best-of``), of which the most alike
counts. How often the judge finds it right at all is told beside that: of real photos, and of pictures that the world itself draws in the
same scenes. Photos tell likeness as well; whose adapter drew a picture is told by what each adapter draws alone (``--gallery``).
Resemblance is asked of two encoders: the service's own, by which pictures are drawn again and the best of several is chosen, and the
evaluator, by which nothing is chosen. ``--sheet`` shows the portraits that photos take for somebody else's. ``--adapters`` and
``--pictures`` keep them.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.drawer import card_of, plain_embeds
from benchmarks.isolation_drawing import Drawn, Rule, drawn_alone, drawn_together, galleries_alone
from benchmarks.isolation_fitting import fitted, fitted_side_by_side
from benchmarks.isolation_judge import Judge, most_alike
from benchmarks.isolation_sheet import missed, sheet_of_misses
from benchmarks.isolation_subjects import DRAWN_AS, FIRST_SUBJECT, PHOTOS, Asked, Subject, draw_photos
from benchmarks.measuring import Book, surroundings
from benchmarks.render_switch import open_storage_of, shelve
from core.settings import Settings
from inference.adapters import AdapterCache
from inference.reading import read_adapter
from metrics.encoders import IdentityEncoder, load_identity_encoder
from storage.folder import FolderStore
from trainer.bench import Bench
from trainer.loading import load_bench

STYLES = ("studio-photo", "oil-painting", "watercolour")


@dataclass(frozen=True)
class Kept:
    """What one run leaves on disk: each subject's photos, and the adapters that were fitted to them."""

    photos: dict[Subject, list[Image.Image]]
    adapters: dict[Subject, Path]
    fit_s: float


@dataclass(frozen=True)
class Outcome:
    """Pictures of each request: ``together`` as customers get them, ``alone`` for some, by their place; galleries of each."""

    together: list[Drawn]
    alone: dict[int, Drawn]
    galleries: list[list[Image.Image]]
    seconds: float
    drawn: int

    @property
    def pairs(self) -> list[tuple[Image.Image, Image.Image]]:
        return [pair for n, drawn in self.alone.items() for pair in zip(drawn.kept, self.together[n].kept, strict=True)]


def main(arguments: Sequence[str] | None = None) -> None:
    asked_for = _asked_for(arguments)
    bench = load_bench(Settings(precision=asked_for.precision))
    evaluator = load_identity_encoder(asked_for.evaluator, bench.base.device)
    with tempfile.TemporaryDirectory() as folder:
        kept = _photos_and_adapters(bench, asked_for, Path(folder))
        rule = _rule(bench, kept, asked_for)
        bench.seats.remove()
        asked = [Asked(subject, style, asked_for.best_of, asked_for.shift) for subject in kept.photos for style in asked_for.styles]
        outcome = _drawn(bench, rule, kept, asked, asked_for, Path(folder))
    if asked_for.pictures:
        _keep(asked_for.pictures, asked, outcome.together)
    photos = list(kept.photos.values())
    sets = _sets(bench.identity, photos, asked, outcome.together)
    verdicts = _judged(bench.identity, photos, asked, sets, outcome.galleries)
    Book(asked_for.json, surroundings(bench.base, "miniature")).add(
        "isolation",
        subjects=len(photos),
        first_subject=asked_for.first,
        photos=asked_for.photo_count,
        requests=len(asked),
        best_of=asked_for.best_of,
        shift=asked_for.shift,
        threads=asked_for.threads,
        s=round(outcome.seconds, 1),
        fit_s=round(kept.fit_s, 1),
        fit_steps=asked_for.steps or "recipe",
        redraw_below=rule.least,
        redraws=rule.rounds_of(asked_for.best_of),
        drawn=outcome.drawn,
        same_as_alone=sum(_digest(one) == _digest(other) for one, other in outcome.pairs),
        drawn_alone=len(outcome.pairs),
        gallery=asked_for.gallery,
        **verdicts,
        evaluator=_judged(evaluator, photos, asked, sets, outcome.galleries),
        precision=bench.base.precision.name,
    )
    if asked_for.sheet:
        misses = missed({way: verdicts["kept"][way] for way in ("plain", "centred")})
        sheet_of_misses(asked, sets["kept"], [some[0] for some in outcome.galleries], kept.photos, misses).save(asked_for.sheet)


def _photos_and_adapters(bench: Bench, asked_for: argparse.Namespace, scratch: Path) -> Kept:
    subjects = [Subject(number, asked_for.first) for number in range(asked_for.subjects)]
    drawn, adapters = asked_for.photos or scratch / "photos", asked_for.adapters or scratch / "adapters"
    draw_photos(subjects, drawn, asked_for.photo_count)
    began = time.perf_counter()
    if asked_for.workers > 1:
        fitted_side_by_side(subjects, drawn, adapters, asked_for.steps, asked_for.precision, asked_for.workers)
    paths = fitted(bench, subjects, drawn, adapters, asked_for.steps)
    return Kept({subject: subject.photos(drawn) for subject in subjects}, paths, time.perf_counter() - began)


def _rule(bench: Bench, kept: Kept, asked_for: argparse.Namespace) -> Rule:
    plain = plain_embeds(bench, (subject.kind for subject in kept.photos))
    cards = {subject: card_of(bench.identity, some, plain[subject.kind]) for subject, some in kept.photos.items()}
    return Rule(cards, asked_for.redraw_below, asked_for.redraws)


def _drawn(bench: Bench, rule: Rule, kept: Kept, asked: Sequence[Asked], asked_for: argparse.Namespace, scratch: Path) -> Outcome:
    few = next(iter(kept.adapters.values())).stat().st_size * 5
    with open_storage_of(scratch, FolderStore(scratch / "objects", b"", ""), few=few) as storage:
        rows = {subject: shelve(storage, subject.number, path) for subject, path in kept.adapters.items()}
        tiers = AdapterCache(storage, partial(read_adapter, bench.base))
        drawer, began = rule.drawer(bench, asked_for.best_of), time.perf_counter()
        together = drawn_together(drawer, rule, tiers, rows, asked, asked_for.threads)
        seconds = time.perf_counter() - began
    again = [n for n, one in enumerate(asked) if one.style in asked_for.styles[: asked_for.alone]]
    alone = drawn_alone(bench, rule, kept.adapters, [asked[n] for n in again])
    galleries = galleries_alone(bench, rule, kept.adapters, asked, asked_for.gallery)
    return Outcome(together, dict(zip(again, alone, strict=True)), galleries, seconds, drawer.drawn)


def _sets(
    identity: IdentityEncoder, photos: Sequence[list[Image.Image]], asked: Sequence[Asked], drawn: Sequence[Drawn]
) -> dict[str, list[Image.Image]]:
    """Pictures to be judged, one a request: what a customer sees first, what came first, and what the world itself draws."""
    own = Judge([identity.embed(some) for some in photos])
    shown = most_alike(asked, own.cosines(_embeds(identity, [pictures.kept for pictures in drawn])))
    return {
        "kept": [pictures.kept[n] for pictures, n in zip(drawn, shown, strict=True)],
        "first": [pictures.first[0] for pictures in drawn],
        "drawn_by_the_world": [one.drawn_by_the_world(n) for n, one in enumerate(asked)],
    }


def _judged(
    identity: IdentityEncoder,
    photos: Sequence[list[Image.Image]],
    asked: Sequence[Asked],
    sets: dict[str, list[Image.Image]],
    galleries: Sequence[list[Image.Image]],
) -> dict[str, Any]:
    """Whose each picture is, of ``sets`` of one a request; those that the world draws are not compared with what adapters draw."""
    judge, alone = Judge([identity.embed(some) for some in photos]), _embeds(identity, galleries)
    said = {}
    for name, images in sets.items():
        said[name] = judge.verdicts(asked, identity.embed(images), None if name == "drawn_by_the_world" else alone)
    return said | {"photos_nearest_own": judge.photos_nearest_own(), "encoder": identity.id}


def _embeds(identity: IdentityEncoder, pictures: Sequence[list[Image.Image]]) -> torch.Tensor:
    """[requests, pictures, D]"""
    return torch.stack([identity.embed(some) for some in pictures])


def _keep(folder: Path, asked: Sequence[Asked], drawn: Sequence[Drawn]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for one, pictures in zip(asked, drawn, strict=True):
        for name, some in (("first", pictures.first), ("kept", pictures.kept)):
            for n, image in enumerate(some):
                image.save(folder / f"{one.subject.number}-{one.style}-{name}{n}.png")


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def _asked_for(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=50)
    parser.add_argument("--first", type=int, default=FIRST_SUBJECT, help="the drawn world's seed of the first subject")
    parser.add_argument("--photo-count", type=int, default=PHOTOS, help="photos of each; customers bring 10 to 20")
    parser.add_argument("--shift", type=int, default=0, help="of every request's seed: the same adapters, other pictures")
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
    parser.add_argument(
        "--evaluator",
        type=Path,
        default=Settings().miniature_dir / "evaluator",
        help="folder of the identity encoder by which nothing is chosen",
    )
    parser.add_argument("--pictures", type=Path, help="folder for the pictures, as they came first and as they are kept")
    parser.add_argument("--photos", type=Path, help="folder where drawn photos are kept for the next run")
    parser.add_argument("--adapters", type=Path, help="folder where adapters are kept for the next run")
    parser.add_argument("--json", type=Path)
    asked_for = parser.parse_args(arguments)
    if asked_for.sheet and not asked_for.gallery:
        parser.error("--sheet shows what each adapter draws alone: it needs a --gallery of at least one")
    if not (asked_for.evaluator / "config.json").exists():
        parser.error(f"no encoder in {asked_for.evaluator}: python -m miniature.teach.evaluator writes one")
    return asked_for


if __name__ == "__main__":
    main()
