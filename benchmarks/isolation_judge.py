"""Whose picture it is: the subject whose photos, or whose adapter's own pictures, it resembles most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import normalize

from benchmarks.isolation_subjects import Asked


@dataclass(frozen=True)
class Judge:
    """``photos``: embeddings [N, D] of each subject's photos, by the identity encoder, unit length.

    Both ways compare a picture with the mean of each subject's photos. ``centred`` takes the mean of all pictures in that style away first,
    and that of all photos from theirs: a style moves everybody the same way, which says nothing of who it is (the first moment of CORAL,
    Sun et al. 2016)."""

    photos: Sequence[torch.Tensor]

    @property
    def references(self) -> torch.Tensor:
        """[subjects, D]"""
        return torch.stack([some.mean(0) for some in self.photos])

    def cosines(self, embeds: torch.Tensor) -> torch.Tensor:
        """[…, subjects], of ``embeds`` […, D]."""
        return embeds @ self.references.T

    def centred(self, asked: Sequence[Asked], embeds: torch.Tensor) -> torch.Tensor:
        """[requests, subjects], of ``embeds`` [requests, D]."""
        moved = torch.empty_like(embeds)
        for style in {one.style for one in asked}:
            rows = [n for n, one in enumerate(asked) if one.style == style]
            moved[rows] = embeds[rows] - embeds[rows].mean(0)
        references = self.references
        return normalize(moved, dim=-1) @ normalize(references - references.mean(0), dim=-1).T

    def verdicts(self, asked: Sequence[Asked], embeds: torch.Tensor, galleries: torch.Tensor | None = None) -> dict[str, dict[str, Any]]:
        """Of one picture a request, ``embeds`` [requests, D]: by the plain cosine, by the centred one, and by :func:`by_galleries` if there
        are any."""
        ways = {"plain": self.cosines(embeds), "centred": self.centred(asked, embeds)}
        if galleries is not None and galleries.shape[1]:
            ways["galleries"] = by_galleries(asked, embeds, galleries)
        return {way: verdict(asked, near) for way, near in ways.items()}

    def photos_nearest_own(self) -> float:
        """The ceiling: the share of real photos that are nearest to their own subject's other photos."""
        references, hits = self.references, []
        for n, embeds in enumerate(self.photos):
            near = embeds @ references.T
            others = (embeds.sum(0, keepdim=True) - embeds) / (len(embeds) - 1)  # a photo is not compared with itself
            near[:, n] = (embeds * others).sum(1)
            hits += (near.argmax(1) == n).tolist()
        return round(sum(hits) / len(hits), 4)


def by_galleries(asked: Sequence[Asked], embeds: torch.Tensor, galleries: torch.Tensor) -> torch.Tensor:
    """[requests, subjects]: cosines of ``embeds`` [requests, D] with the mean of what each subject's adapter draws alone in the same style,
    ``galleries`` [requests, size, D]. Photos tell how like a subject its portraits are; this tells only whose adapter drew one. −1 where a
    subject was not asked for in that style."""
    means = normalize(galleries.mean(1), dim=-1)
    near = torch.full((len(asked), 1 + max(one.subject.number for one in asked)), -1.0)
    for style in {one.style for one in asked}:
        rows = [n for n, one in enumerate(asked) if one.style == style]
        subjects = [asked[n].subject.number for n in rows]
        near[torch.tensor(rows)[:, None], torch.tensor(subjects)] = embeds[rows] @ means[rows].T
    return near


def most_alike(asked: Sequence[Asked], near: torch.Tensor) -> list[int]:
    """Of each request the picture most like its own subject, which customers see first; ``near`` [requests, best_of, subjects]: cosines."""
    return [int(pictures[:, one.subject.number].argmax()) for one, pictures in zip(asked, near, strict=True)]


def verdict(asked: Sequence[Asked], near: torch.Tensor) -> dict[str, Any]:
    """Of pictures with cosines ``near`` [requests, subjects]: how many are nearest to their own subject, and which are not, and to whom."""
    found = near.argmax(1).tolist()
    hits = [number == one.subject.number for one, number in zip(asked, found, strict=True)]
    by_style = Counter(one.style for one, hit in zip(asked, hits, strict=True) if hit)
    misses = [[one.subject.number, one.style, number] for one, number, hit in zip(asked, found, hits, strict=True) if not hit]
    return {"nearest_is_own": sum(hits), "by_style": by_style, "misses": misses}
