"""Photos of a subject and the places that they are uploaded to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from core.errors import UserError, not_found
from core.settings import Settings
from core.words import PhotoVerdict, new_id
from storage import keys, subjects
from storage.tables import Photo, Upload, now

KEPT_PER_PLACE = 5  # rejected photos stay listed with their reasons, up to so many rows for each photo that a training may use

DESCRIPTION_LENGTH = 300


def new_upload(session: Session, settings: Settings, account_id: str, subject_id: str, filename: str) -> Upload:
    """A place for one file. The API presigns ``object_key``, and turns the upload into a photo once the file is there."""
    subjects.open_account(session, account_id)
    subjects.get(session, account_id, subject_id)
    _raise_if_full(session, settings, subject_id)
    upload_id = new_id("upl")
    upload = Upload(
        id=upload_id,
        account_id=account_id,
        subject_id=subject_id,
        filename=plain_filename(filename),
        object_key=keys.upload(account_id, subject_id, upload_id),
        created_at=now(),
        expires_at=now() + timedelta(seconds=settings.presign_ttl_s),
    )
    session.add(upload)
    session.flush()
    return upload


def get_upload(session: Session, account_id: str, upload_id: str) -> Upload:
    upload = session.get(Upload, upload_id)
    if upload is None or upload.account_id != account_id:
        raise not_found("upload")
    return upload


def takes_upload(session: Session, object_key: str) -> bool:
    """Whether somebody still waits for a file there; until the transaction ends, an erasure of the place waits."""
    return session.scalar(select(Upload.id).where(Upload.object_key == object_key).with_for_update(read=True, key_share=True)) is not None


def add(session: Session, settings: Settings, photo: Photo) -> Photo:
    """Store the row of a judged photo, whose objects are in place. ``photos/too-many`` if the subject has all that a training may use."""
    subjects.lock(session, photo.account_id, photo.subject_id)
    if photo.verdict != PhotoVerdict.REJECTED:
        _raise_if_full(session, settings, photo.subject_id)
    photo.created_at = photo.created_at or now()
    session.add(photo)
    session.flush()
    return photo


def get(session: Session, account_id: str, photo_id: str) -> Photo:
    photo = session.get(Photo, photo_id)
    if photo is None or photo.account_id != account_id:
        raise not_found("photo")
    return photo


def of_subject(account_id: str, subject_id: str) -> Select[Photo]:
    """For :func:`storage.paging.page`."""
    return select(Photo).where(Photo.account_id == account_id, Photo.subject_id == subject_id)


def usable(session: Session, subject_id: str) -> list[Photo]:
    """Those that a training may use, in the order in which they came."""
    query = select(Photo).where(Photo.subject_id == subject_id, Photo.verdict != PhotoVerdict.REJECTED)
    return list(session.scalars(query.order_by(Photo.created_at, Photo.id)))


def describe(session: Session, account_id: str, photo_id: str, text: str) -> Photo:
    """The customer's own words on the scene, which the next training captions with. Empty: what the tagger sees."""
    photo = get(session, account_id, photo_id)
    photo.description = plain_description(text)
    return photo


def judge(photo: Photo, verdict: PhotoVerdict, reasons: list[Any]) -> None:
    """A later check, such as a comparison of the whole set, changes its mind."""
    photo.verdict, photo.reasons = verdict, reasons


def check_count(session: Session, settings: Settings, subject_id: str) -> list[Photo]:
    """The photos that a training will use; :class:`core.errors.UserError` ``photos/too-few`` or ``photos/too-many`` with what to do."""
    found = usable(session, subject_id)
    least, most = settings.min_photos, settings.max_photos
    if len(found) < least:
        missing = least - len(found)
        detail = (
            f"{len(found)} of at least {least} usable photos are here: add {missing} more. Rejected photos do not count; each says why."
        )
        extra = {"usable": len(found), "missing": missing, "min_photos": least, "photos": _rejected(session, subject_id)}
        raise UserError("photos/too-few", "Too few usable photos", detail, extra=extra)
    if len(found) > most:
        detail = f"{len(found)} usable photos are here, and a training uses at most {most}: erase {len(found) - most}."
        raise UserError("photos/too-many", "Too many photos", detail, extra={"usable": len(found), "max_photos": most})
    return found


def plain_description(text: str) -> str:
    """One line, printable; :class:`core.errors.UserError` if it is too long."""
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    if len(plain) > DESCRIPTION_LENGTH:
        detail = f"{len(plain)} characters: at most {DESCRIPTION_LENGTH}. Name the place, the light and what is worn; leave the looks out."
        raise UserError("photo/description-too-long", "This description is too long", detail)
    return plain


def plain_filename(name: str) -> str:
    """The last part, printable, at most 255 characters: it is shown back, and never used as a path."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:255] or "photo"


def _raise_if_full(session: Session, settings: Settings, subject_id: str) -> None:
    most = settings.max_photos
    rejected = Photo.verdict == PhotoVerdict.REJECTED
    total, bad = session.execute(select(func.count(), func.count().filter(rejected)).where(Photo.subject_id == subject_id)).one()
    if total - bad >= most or total >= most * KEPT_PER_PLACE:
        detail = f"A subject holds at most {most} usable photos. Erase one that you like less, then add this one."
        raise UserError("photos/too-many", "This subject has all the photos it can use", detail, status=409, extra={"max_photos": most})


def _rejected(session: Session, subject_id: str) -> list[dict[str, Any]]:
    query = select(Photo).where(Photo.subject_id == subject_id, Photo.verdict == PhotoVerdict.REJECTED)
    return [{"id": photo.id, "filename": photo.filename, "reasons": photo.reasons} for photo in session.scalars(query)]
