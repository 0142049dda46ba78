"""Portraits of many adapters: by several threads over one engine, and by an engine that never saw another adapter."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from benchmarks.drawer import Card, Drawer
from benchmarks.isolation_subjects import Asked, Subject
from inference.adapters import AdapterCache
from inference.engine import Engine
from inference.loaded import LoadedAdapter
from inference.reading import read_adapter
from storage.tables import Adapter
from trainer.bench import Bench

GALLERY_SEEDS = 1000  # between the pictures of a gallery: more than requests and second tries take


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

    def rounds_of(self, best_of: int) -> int:
        return self.rounds if best_of == 1 else 0

    def drawer(self, bench: Bench, best_of: int) -> Drawer:
        return Drawer(Engine(bench.base), bench.identity, self.least, self.rounds_of(best_of))

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


def drawn_alone(bench: Bench, rule: Rule, paths: dict[Subject, Path], asked: Sequence[Asked]) -> list[Drawn]:
    """Each subject's requests in turn, by an engine that never saw another adapter."""
    found: dict[int, Drawn] = {}
    for subject in dict.fromkeys(one.subject for one in asked):
        adapter = read_adapter(bench.base, paths[subject], "alone")
        own = [n for n, one in enumerate(asked) if one.subject == subject]
        drawer = rule.drawer(bench, asked[own[0]].best_of)
        found |= {n: rule.draw(drawer, asked[n], adapter) for n in own}
    return [found[n] for n in range(len(asked))]


def galleries_alone(bench: Bench, rule: Rule, paths: dict[Subject, Path], asked: Sequence[Asked], size: int) -> list[list[Image.Image]]:
    """For each request ``size`` pictures that its adapter draws alone in the same style, from seeds that no request or second try has."""
    others = [replace(one, best_of=1, shift=one.shift + GALLERY_SEEDS * n) for one in asked for n in range(1, size + 1)]
    pictures = [drawn.kept[0] for drawn in drawn_alone(bench, rule, paths, others)]
    return [pictures[n * size : (n + 1) * size] for n in range(len(asked))]
