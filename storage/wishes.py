"""What a customer may ask of a portrait besides its style: a pose, a photo to draw from, the best of several, no second try."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from core.bases import modes_of
from core.errors import UserError
from core.poses import find_pose
from core.settings import Settings
from core.styles import PLAIN_VIEW
from core.words import Mode, PhotoVerdict
from storage import photos
from storage.tables import Adapter

LARGEST_PHOTO = "largest"  # instead of a photo's id: the subject's largest


@dataclass(frozen=True)
class Wishes:
    """``pose``: a name of the pose bank. ``reference_photo``: a photo's id or «largest». ``best_of``: how many are rendered and ranked.
    ``redraw``: whether pictures that are not alike are drawn again; None: where neither a seed nor the best of several is asked for."""

    pose: str | None = None
    reference_photo: str | None = None
    best_of: int | None = None
    redraw: bool | None = None

    @property
    def view(self) -> str:
        """What a style's prompt says of framing and pose."""
        return find_pose(self.pose).words if self.pose else PLAIN_VIEW

    def params(self, session: Session, settings: Settings, adapter: Adapter | None, count: int) -> dict[str, Any]:
        """What they put over a style's recipe; :class:`core.errors.UserError` says which of them cannot be fulfilled, and why."""
        if self.pose and self.reference_photo:
            raise UserError("portrait/pose-and-photo", "A pose and a photo cannot be combined", "Send either pose or reference_photo.")
        return self._posed(settings) | self._from_photo(session, settings, adapter) | self._ranked(settings, adapter, count)

    def redraw_below(self, own: float, adapter: Adapter | None, seed: int | None) -> float:
        """``own``, the likeness that the style or the service wants, or 0 where pictures stay as they come: whoever names a seed wants the
        picture of that seed."""
        wanted = self.redraw if self.redraw is not None else seed is None and self.best_of is None
        return own if wanted and adapter else 0.0

    def _posed(self, settings: Settings) -> dict[str, Any]:
        if not self.pose:
            return {}
        _require_mode(settings, Mode.POSE, "poses", "Leave pose out; an operator can set LIKENESS_CONTROLNET.")
        return {"mode": Mode.POSE, "pose": find_pose(self.pose).name}

    def _from_photo(self, session: Session, settings: Settings, adapter: Adapter | None) -> dict[str, Any]:
        if not self.reference_photo:
            return {}
        _require_mode(
            settings, Mode.REFERENCE, "photos to draw from", "Leave reference_photo out, or use a base model such as FLUX.1-Kontext."
        )
        if adapter is None:
            raise UserError("portrait/no-reference", "There is no photo to draw from", "Send the adapter_id of the subject, too.")
        if self.reference_photo == LARGEST_PHOTO:
            return {"mode": Mode.REFERENCE}
        photo = photos.get(session, adapter.account_id, self.reference_photo)
        if photo.subject_id != adapter.subject_id or photo.verdict == PhotoVerdict.REJECTED:
            raise UserError("portrait/no-reference", "This photo cannot be drawn from", "Choose a usable photo of the same subject.")
        return {"mode": Mode.REFERENCE, "reference_photo": photo.id}

    def _ranked(self, settings: Settings, adapter: Adapter | None, count: int) -> dict[str, Any]:
        if self.best_of is None:
            return {}
        most = settings.max_images_per_portrait
        if not 2 <= self.best_of <= most or count not in (1, self.best_of):
            detail = f"best_of is 2 to {most}: so many pictures are rendered, paid for and kept, the most alike first. Leave count out."
            raise UserError("portrait/best-of", "The best of so many cannot be had", detail)
        if adapter is None:
            raise UserError(
                "portrait/best-of", "Nothing tells which is best", "Likeness is measured against a subject: send an adapter_id."
            )
        return {"best_of": self.best_of}


NO_WISHES = Wishes()


def _require_mode(settings: Settings, mode: Mode, what: str, fix: str) -> None:
    if mode not in modes_of(settings):
        raise UserError("portrait/mode", f"This service's base model takes no {what}", fix)
