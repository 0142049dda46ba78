"""What drawing unlike pictures again does: likeness by style before and after, and what it costs.

    python -m benchmarks.isolation --subjects 50 --photos PHOTOS --adapters ADAPTERS     # fits the adapters
    python -m benchmarks.redraw --photos PHOTOS --adapters ADAPTERS --json benchmarks/results/redraw-DATE-HOST.json

Every adapter in the folder draws one picture in each style, as a customer asks for it, and what is not alike enough is drawn again by the
service's own rule. Likeness: 0 is what the bare base draws for the class word, 1 what a photo of the subject scores against its others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.drawer import Drawer, card_of, plain_embeds
from benchmarks.isolation_subjects import DRAWN_AS, Asked, Subject, draw_photos
from benchmarks.measuring import Book, surroundings
from core.settings import Settings
from inference.engine import Engine
from inference.reading import read_adapter
from inference.scoring import Picture
from trainer.loading import load_bench


def subjects_with_adapters(folder: Path, most: int) -> list[Subject]:
    return sorted((Subject(int(path.stem)) for path in folder.glob("*.safetensors")), key=lambda subject: subject.number)[:most]


def main(arguments: Sequence[str] | None = None) -> None:
    asked_for = _parser().parse_args(arguments)
    settings = Settings(precision=asked_for.precision)
    bench = load_bench(settings)
    subjects = subjects_with_adapters(asked_for.adapters, asked_for.subjects)
    draw_photos(subjects, asked_for.photos)
    plain = plain_embeds(bench, (one.kind for one in subjects))
    cards = {one: card_of(bench.identity, one.photos(asked_for.photos), plain[one.kind]) for one in subjects}
    bench.seats.remove()
    least = settings.redraw_below
    book = Book(asked_for.json, surroundings(bench.base, "miniature"))
    drawer = Drawer(Engine(bench.base), bench.identity, least, asked_for.rounds)
    for style in asked_for.styles:
        first: list[Picture] = []
        best: list[Picture] = []
        drawer.drawn = 0
        for subject in subjects:
            adapter = read_adapter(bench.base, asked_for.adapters / f"{subject.number}.safetensors", str(subject.number))
            came, kept = drawer.tries(Asked(subject, style).request, adapter, cards[subject])
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
