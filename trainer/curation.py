"""Which photos of a set an adapter should learn from: one subject, no moment twice. Each photo gets a verdict with a reason and a fix.

What a photo shows by itself (size, blur, light) was judged at upload. Here the identity encoder compares the photos with one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from core.errors import JobFailed
from core.words import PhotoVerdict
from metrics.encoders import IdentityEncoder
from metrics.photo_files import Reason
from metrics.quality import dhash_distance, verdict_of
from trainer.photos import TrainingPhoto

OUTLIER_DEVIATIONS = 3.5  # robust z-score above which a value is an outlier (Iglewicz & Hoaglin 1993)
OUTLIER_DROP = 0.15  # and at least so far below the set's median similarity: a tight set has tiny deviations
STRANGER = 0.5  # of the set's median similarity: below that the photo is left out, an outlier above it is only pointed out
TWIN_COSINE = 0.97  # hashes alone recall few near-duplicates: a looser hash counts where the encoder agrees
TWIN_BITS = 12


@dataclass(frozen=True)
class Finding:
    key: str
    name: str
    reasons: tuple[Reason, ...]

    @property
    def verdict(self) -> PhotoVerdict:
        return verdict_of(self.reasons)


@dataclass(frozen=True)
class Curated:
    """``photos`` to learn from with their identity ``embeds`` [N, D], and a finding for every photo that was looked at."""

    photos: list[TrainingPhoto]
    embeds: torch.Tensor
    findings: list[Finding]


def curate(photos: Sequence[TrainingPhoto], encoder: IdentityEncoder, min_photos: int) -> Curated:
    """Drops photos of somebody else, and near-duplicates as far as ``min_photos`` remain. See :func:`require`."""
    photos = _distinct(photos)
    embeds = encoder.embed([photo.image for photo in photos])
    strangers = {photos[i].key: WRONG_SUBJECT if far else ODD_ONE for i, far in outliers(embeds).items()}
    rest = [i for i, photo in enumerate(photos) if strangers.get(photo.key) != WRONG_SUBJECT]
    twins = {photos[i].key: _twin_of(photos[other]) for i, other in near_duplicates(photos, embeds, rest).items()}
    spare = max(0, len(rest) - min_photos)
    found = strangers | dict(list(twins.items())[:spare])
    findings = [Finding(photo.key, photo.name, (found[photo.key],) if photo.key in found else ()) for photo in photos]
    kept = [i for i, finding in enumerate(findings) if finding.verdict != PhotoVerdict.REJECTED]
    return Curated([photos[i] for i in kept], embeds[kept], findings)


def require(curated: Curated, min_photos: int) -> None:
    """:class:`core.errors.JobFailed` with every dropped photo's name and reason if fewer than ``min_photos`` are left."""
    kept = len(curated.photos)
    if kept >= min_photos:
        return
    dropped = [finding for finding in curated.findings if finding.verdict == PhotoVerdict.REJECTED]
    lines = [f"{finding.name}: {reason.message} {reason.fix}" for finding in dropped for reason in finding.reasons]
    raise JobFailed(" ".join([f"Only {kept} photos can be used, and {min_photos} are needed: add {min_photos - kept} more.", *lines]))


def outliers(embeds: torch.Tensor) -> dict[int, bool]:
    """Rows whose similarity to the set's medoid is far below the others': unit vectors [N, D] → index → certainly a stranger.

    Outlier: more than 3.5 robust deviations (1.4826 · MAD) and at least 0.15 below the median. Stranger: less than half the median.
    (The miniature's encoder: the same subject 0.55 at worst, others 0.1 on average.) Fewer than four rows have no majority.
    """
    if embeds.shape[0] < 4:
        return {}
    similarity = embeds @ embeds.T
    medoid = int(similarity.median(1).values.argmax())  # of medians: a stranger cannot pull it
    to_medoid = torch.cat([similarity[medoid, :medoid], similarity[medoid, medoid + 1 :]])
    typical = float(to_medoid.median())
    deviation = 1.4826 * float((to_medoid - typical).abs().median())
    limit = typical - max(OUTLIER_DROP, OUTLIER_DEVIATIONS * deviation)
    return {i: value < STRANGER * typical for i, value in enumerate(similarity[medoid].tolist()) if value < limit}


def near_duplicates(photos: Sequence[TrainingPhoto], embeds: torch.Tensor, among: Sequence[int]) -> dict[int, int]:
    """The less sharp photo of each pair that shows the same moment → the one that stays."""
    hashes = {i: photos[i].dhash for i in among}
    ranked = sorted(among, key=lambda i: -photos[i].sharpness)
    kept: list[int] = []
    twins: dict[int, int] = {}
    for i in ranked:
        twin = next((k for k in kept if _same_moment(hashes[i], hashes[k], float(embeds[i] @ embeds[k]))), None)
        if twin is None:
            kept.append(i)
        else:
            twins[i] = twin
    return twins


def _same_moment(a: str, b: str, cosine: float) -> bool:
    return dhash_distance(a, b) <= TWIN_BITS and cosine >= TWIN_COSINE


def _distinct(photos: Sequence[TrainingPhoto]) -> list[TrainingPhoto]:
    return list({photo.key: photo for photo in photos}.values())


WRONG_SUBJECT = Reason(
    "photo/another-subject",
    "This seems to show somebody else than your other photos do.",
    "Replace it, or crop it so that only your subject is left.",
)

ODD_ONE = Reason(
    "photo/unlike-the-others",
    "Your subject looks different here than on your other photos.",
    "Keep it if it is the same subject; replace it if not.",
    PhotoVerdict.WARN,
)


def _twin_of(other: TrainingPhoto) -> Reason:
    return Reason(
        "photo/near-duplicate",
        f"Shows the same moment as {other.name}.",
        "Replace it with another moment: a different place, angle or light.",
    )
