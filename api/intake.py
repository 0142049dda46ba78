"""A file from a customer → a judged photo, or the reason why not. The only way into the store for a picture that we did not make."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

from sqlalchemy.orm import Session

from api.state import State
from core.errors import UserError, not_found
from core.words import PhotoVerdict, SubjectKind, new_id
from metrics.photo_files import CleanPhoto, PhotoLimits, PhotoRefused, Reason
from metrics.quality import SET_CODES, PhotoReport, SetMember, compare_set, verdict_of
from storage import keys, photos, subjects, writing
from storage.tables import Photo, Subject, Upload


@dataclass(frozen=True)
class Refused:
    """A file that did not become a photo."""

    filename: str
    reason: Reason

    def as_dict(self) -> dict[str, Any]:
        return {"filename": self.filename, **self.reason.as_dict()}


Outcome = Photo | Refused


def limits(state: State) -> PhotoLimits:
    settings = state.settings
    return PhotoLimits(settings.max_photo_pixels, settings.training_max_side, settings.photo_side_floor)


def take_file(state: State, subject: Subject, filename: str, data: bytes) -> Outcome:
    """Judge and store one file. Faults of the file come back as :class:`Refused`; a subject that is gone raises."""
    filename = photos.plain_filename(filename)
    if len(data) > state.settings.max_photo_bytes:
        return Refused(filename, _too_large(state))
    try:
        clean, report = state.photo_pool.check(data, SubjectKind(subject.kind), limits(state))
        return _store(state, subject, filename, clean, report)
    except PhotoRefused as refused:
        return Refused(filename, refused.reason)
    except UserError as error:
        if error.status == 404:
            raise
        return Refused(filename, Reason(error.type, error.title, error.detail))


def take_upload(state: State, account_id: str, subject: Subject, upload_id: str) -> Outcome:
    """Finish a presigned upload: its object and its row are gone afterwards, whatever became of it."""
    with state.storage.db.reader() as session:
        upload = photos.get_upload(session, account_id, upload_id)
    if upload.subject_id != subject.id:
        return Refused(upload.filename, Reason("photo/other-subject", "This file was sent for another subject.", "Upload it here again."))
    data = _sent(state, upload)
    _end_upload(state, upload)
    return data if isinstance(data, Refused) else take_file(state, subject, upload.filename, data)


def review_set(session: Session, account_id: str, subject_id: str) -> None:
    """Compare the subject's photos with one another and set their verdicts anew; in the caller's transaction."""
    rows = list(session.scalars(photos.of_subject(account_id, subject_id).order_by(Photo.created_at, Photo.id)))
    own = [[_reason(item) for item in row.reasons if item["code"] not in SET_CODES] for row in rows]
    findings = compare_set([_member(row, reasons) for row, reasons in zip(rows, own, strict=True)])
    for row, reasons, found in zip(rows, own, findings, strict=True):
        together = [*reasons, *found]
        photos.judge(row, verdict_of(together), [reason.as_dict() for reason in together])


def _sent(state: State, upload: Upload) -> bytes | Refused:
    try:
        if state.storage.objects.size(upload.object_key) > state.settings.max_photo_bytes:
            return Refused(upload.filename, _too_large(state))
        return state.storage.objects.get(upload.object_key)
    except KeyError:
        fix = "Send it again; the connection may have broken off."
        return Refused(upload.filename, Reason("photo/not-received", "This file has not arrived.", fix))


def _end_upload(state: State, upload: Upload) -> None:
    state.storage.objects.erase([upload.object_key])
    with state.storage.db.session() as session, suppress(UserError):
        session.delete(photos.get_upload(session, upload.account_id, upload.id))


def _store(state: State, subject: Subject, filename: str, clean: CleanPhoto, report: PhotoReport) -> Photo:
    photo = _row(subject, filename, clean, report)
    try:
        with writing.announced(state.storage, [photo.object_key, photo.thumb_key], partial(_still_there, subject)):
            _put(state, photo, clean)
    except writing.OwnerGone:
        raise not_found("subject") from None
    return photo


def _still_there(subject: Subject, session: Session) -> bool:
    return subjects.stands(session, subject.account_id, subject.id)


def _put(state: State, photo: Photo, clean: CleanPhoto) -> None:
    objects = state.storage.objects
    try:
        objects.put(photo.object_key, clean.jpeg, "image/jpeg")
        objects.put(photo.thumb_key, clean.thumb, "image/webp")
        with state.storage.db.session() as session:
            photos.add(session, state.settings, photo)
            review_set(session, photo.account_id, photo.subject_id)
    except BaseException:
        objects.erase([photo.object_key, photo.thumb_key])
        raise


def _row(subject: Subject, filename: str, clean: CleanPhoto, report: PhotoReport) -> Photo:
    photo_id = new_id("pho")
    return Photo(
        id=photo_id,
        account_id=subject.account_id,
        subject_id=subject.id,
        filename=filename,
        object_key=keys.photo(subject.account_id, subject.id, photo_id),
        thumb_key=keys.photo_thumb(subject.account_id, subject.id, photo_id),
        sha256=sha256(clean.jpeg).hexdigest(),
        dhash=report.dhash,
        width=clean.width,
        height=clean.height,
        size_bytes=len(clean.jpeg),
        verdict=report.verdict,
        reasons=[reason.as_dict() for reason in report.reasons],
        measures=report.measures,
        description="",
    )


def _member(row: Photo, own: Sequence[Reason]) -> SetMember:
    usable = verdict_of(own) != PhotoVerdict.REJECTED
    return SetMember(row.dhash, row.measures.get("sharpness", 0.0), row.measures.get("faces"), usable, row.filename)


def _reason(item: dict[str, Any]) -> Reason:
    return Reason(item["code"], item["message"], item["fix"], PhotoVerdict(item.get("verdict", PhotoVerdict.REJECTED)))


def _too_large(state: State) -> Reason:
    most = state.settings.max_photo_bytes // 2**20
    return Reason(
        "photo/too-large", f"This file is larger than {most} MB.", "Export it as a JPEG; 2,048 pixels on the long side is plenty."
    )


def counts(state: State, subject_id: str) -> dict[str, Any]:
    """How the set stands: what the page's «12 of 10–20» shows."""
    with state.storage.db.reader() as session:
        by_verdict = subjects.photo_counts(session, [subject_id])[subject_id]
    usable = sum(count for verdict, count in by_verdict.items() if verdict != PhotoVerdict.REJECTED)
    return {
        "usable": usable,
        "rejected": by_verdict.get(PhotoVerdict.REJECTED, 0),
        "min_photos": state.settings.min_photos,
        "max_photos": state.settings.max_photos,
    }
