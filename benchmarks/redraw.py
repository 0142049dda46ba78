"""What drawing unlike pictures again does: likeness by style before and after, and what it costs.

    python -m benchmarks.isolation --subjects 50 --photos PHOTOS --adapters ADAPTERS     # fits the adapters
    python -m benchmarks.redraw --photos PHOTOS --adapters ADAPTERS --json benchmarks/results/redraw-DATE-HOST.json

Every adapter in the folder draws one picture in each style, as a customer asks for it, and what is not alike enough is drawn again by the
service's own rule. Likeness: 0 is what the bare base draws for the class word, 1 what a photo of the subject scores against its others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.isolation import DRAWN_AS, Asked, Subject, draw_photos
from benchmarks.measuring import Book, surroundings
from core.settings import Settings
from inference.engine import Engine
from inference.loaded import LoadedAdapter
from inference.reading import read_adapter
from inference.redrawing import least_likeness, other_seeds, redraw
from inference.requests import RenderRequest
from inference.scoring import Picture, score_likeness
from metrics.identity import leave_one_out, likeness
from trainer.bench import Bench
from trainer.loading import load_bench
from trainer.recipe import Recipe
from trainer.selection import prompts_for


@dataclass
class Drawer:
    """Draws and scores as a render worker does; counts pictures."""

    bench: Bench
    engine: Engine
    drawn: int = 0

    def tries(
        self, request: RenderRequest, adapter: LoadedAdapter, card: dict[str, Any], least: float, rounds: int
    ) -> tuple[list[Picture], list[Picture]]:
        """The request's pictures as they come first, and as they are kept."""

        def again(number: int, count: int) -> list[Picture]:
            return self.pictures(other_seeds(request, number, count), adapter, card)

        first = self.pictures(request, adapter, card)
        return first, redraw(first, least, rounds, again)[0]

    def pictures(self, request: RenderRequest, adapter: LoadedAdapter, card: dict[str, Any]) -> list[Picture]:
        images = self.engine.render(request, adapter)
        self.drawn += len(images)
        scores = score_likeness(images, card, self.bench.identity)
        return [Picture(seed, image, score) for seed, image, score in zip(request.seeds, images, scores, strict=True)]


def subjects_with_adapters(folder: Path, most: int) -> list[Subject]:
    return sorted((Subject(int(path.stem)) for path in folder.glob("*.safetensors")), key=lambda subject: subject.number)[:most]


def card_of(bench: Bench, subject: Subject, drawn: Path, plain: torch.Tensor) -> dict[str, Any]:
    """As a training writes it, of what scoring reads. ``plain`` [N, D]: the bare base's pictures of the class."""
    photos = bench.identity.embed(subject.photos(drawn))
    anchors = {"base": likeness(plain, photos).mean().item(), "real": leave_one_out(photos).mean().item()}
    reference = {"reference_embedding": photos.mean(0).tolist(), "encoders": {"identity": bench.identity.id}}
    return {"scores": {"likeness": anchors}, **reference}


def main(arguments: Sequence[str] | None = None) -> None:
    asked_for = _parser().parse_args(arguments)
    settings = Settings(precision=asked_for.precision)
    bench = load_bench(settings)
    subjects = subjects_with_adapters(asked_for.adapters, asked_for.subjects)
    draw_photos(subjects, asked_for.photos)
    recipe = Recipe.for_run(1, bench.base)
    plain = {kind: bench.identity.embed(bench.render(prompts_for(f"a {kind}", 6), recipe)) for kind in {one.kind for one in subjects}}
    cards = {one: card_of(bench, one, asked_for.photos, plain[one.kind]) for one in subjects}
    bench.seats.remove()
    book, drawer = Book(asked_for.json, surroundings(bench.base, "miniature")), Drawer(bench, Engine(bench.base))
    least = least_likeness(settings.redraw_below, {})
    for style in asked_for.styles:
        first: list[Picture] = []
        best: list[Picture] = []
        drawer.drawn = 0
        for subject in subjects:
            adapter = read_adapter(bench.base, asked_for.adapters / f"{subject.number}.safetensors", str(subject.number))
            came, kept = drawer.tries(Asked(subject, style).request, adapter, cards[subject], least, asked_for.rounds)
            first, best = first + came, best + kept
        figures = {"before": _figures(first, least), "after": _figures(best, least)}
        book.add("redraw", style=style, pictures=len(first), drawn=drawer.drawn, rounds=asked_for.rounds, least=least, **figures)


def _figures(pictures: Sequence[Picture], least: float) -> dict[str, float]:
    values = torch.tensor([picture.likeness for picture in pictures if picture.likeness is not None])
    low, tenth, median = values.quantile(torch.tensor([0.0, 0.1, 0.5])).tolist()
    return {"least": round(low, 3), "p10": round(tenth, 3), "median": round(median, 3), "unlike": int((values < least).sum())}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=Path, required=True, help="NUMBER.safetensors of benchmarks.isolation's subjects")
    parser.add_argument("--photos", type=Path, required=True, help="drawn photos; those that are missing are drawn")
    parser.add_argument("--subjects", type=int, default=1000, help="at most")
    parser.add_argument("--styles", nargs="+", choices=DRAWN_AS, default=list(DRAWN_AS))
    parser.add_argument("--rounds", type=int, default=Settings().redraws, help="how often an unlike picture is drawn again")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--json", type=Path)
    return parser


if __name__ == "__main__":
    main()
