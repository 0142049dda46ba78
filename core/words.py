"""The nouns and states of the product. Every room uses these and no second word for the same thing."""

from __future__ import annotations

import secrets
from enum import StrEnum


class SubjectKind(StrEnum):
    """What a subject is. Decides which detector and which default class word apply."""

    PERSON = "person"
    CAT = "cat"
    DOG = "dog"
    OTHER = "other"


class JobKind(StrEnum):
    TRAINING = "training"
    PORTRAIT = "portrait"


class JobState(StrEnum):
    """States of a job, in Replicate's words, since operators know them."""

    STARTING = "starting"  # queued: waiting for a worker
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def ended(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED)


class PhotoVerdict(StrEnum):
    """What the checks say of one photo. Only rejected photos are left out of a training."""

    GOOD = "good"
    WARN = "warn"
    REJECTED = "rejected"


class TrainingStage(StrEnum):
    """Stages of a training in the order in which they run."""

    CURATE = "curate"
    CAPTION = "caption"
    ENCODE = "encode"
    FIT = "fit"
    SELECT = "select"
    STORE = "store"


class PortraitStage(StrEnum):
    LOAD = "load"
    RENDER = "render"
    SCORE = "score"
    STORE = "store"


class Mode(StrEnum):
    """How a style renders."""

    TEXT_TO_IMAGE = "text_to_image"
    REFERENCE = "reference"
    TWO_PASS = "two_pass"
    STACKED = "stacked"
    POSE = "pose"
    UPSCALE = "upscale"  # of a picture that was made before; no style names it


MIN_PHOTOS = 10
MAX_PHOTOS = 20
CLASS_WORDS = {SubjectKind.PERSON: "person", SubjectKind.CAT: "cat", SubjectKind.DOG: "dog", SubjectKind.OTHER: "subject"}

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str) -> str:
    """A random, unguessable identifier such as ``job_8f3k…``: 100 bits, safe in a URL and in an object key."""
    return f"{prefix}_{''.join(secrets.choice(_ALPHABET) for _ in range(20))}"
