"""After the faults: nothing lost, nothing doubled, every failure with a true reason. Read from rows, objects and the mail server."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, TypeVar

from PIL import Image
from sqlalchemy import select

from benchmarks.chaos.customers import EMAIL, Asked
from benchmarks.chaos.faults import Injected
from benchmarks.chaos.reasons import LONGEST_OVERRUN_S, failures
from core.words import JobState
from mail.messages import message_id
from storage.keys import adapter_card, adapter_sample
from storage.tables import Adapter, Job, Mail, Photo, Portrait, PortraitImage, Training
from storage.wiring import Storage

Row = TypeVar("Row")


@dataclass
class Rows:
    """Everything, read at once."""

    jobs: dict[str, Job]  # by target
    trainings: dict[str, Training]
    portraits: dict[str, Portrait]
    adapters: list[Adapter]
    images: list[PortraitImage]
    photos: list[Photo]
    mails: list[Mail]


@dataclass
class Verdict:
    problems: list[str] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)


def read_rows(storage: Storage) -> Rows:
    with storage.db.reader() as session:

        def every(table: type[Row]) -> list[Row]:
            return list(session.scalars(select(table)))

        return Rows(
            {job.target_id: job for job in every(Job)},
            {row.id: row for row in every(Training)},
            {row.id: row for row in every(Portrait)},
            every(Adapter),
            every(PortraitImage),
            every(Photo),
            every(Mail),
        )


def audit(
    storage: Storage, asked: Sequence[Asked], taken: Sequence[tuple[str, str]], faults: Sequence[Injected], overrun_s: float
) -> Verdict:
    rows = read_rows(storage)
    stored = {key: hashlib.sha256(storage.objects.get(key)).hexdigest() for key in storage.objects.list("accounts/")}
    verdict = Verdict()
    settings = storage.settings
    reasons = failures(rows.jobs.values(), faults, settings.lease_s, settings.max_attempts)
    checks = (_requests(rows, asked), _trainings(rows, stored), _adapters(storage, rows), _portraits(rows, stored), reasons)
    verdict.problems = [problem for check in (*checks, _mails(rows, taken), _objects(rows, stored)) for problem in check]
    if overrun_s > LONGEST_OVERRUN_S:
        verdict.problems.append(f"a lease stood {overrun_s:.1f} s past its end")
    verdict.counts = _counts(rows, taken, stored)
    return verdict


def _requests(rows: Rows, asked: Sequence[Asked]) -> Iterator[str]:
    """What customers asked for is there once each, and has ended."""
    for kind, table in (("trainings", rows.trainings), ("portraits", rows.portraits)):
        ids = [one.id for one in asked if one.kind == kind and one.id]
        yield from (f"lost: {kind} {one} has no row" for one in ids if one not in table)
        yield from (f"doubled: {kind} {one} was asked for by nobody, or twice by one key" for one in set(table) - set(ids))
        yield from (f"doubled: two requests got {one}" for one, count in Counter(ids).items() if count > 1)
    yield from (f"lost: a request for {one.kind} was never answered ({one.tries} tries)" for one in asked if not one.id)
    for target, job in rows.jobs.items():
        if not JobState(job.state).ended:
            yield f"lost: the job of {target} is still {job.state} (attempt {job.attempts}, error {job.error})"
    yield from (f"lost: {one} has no job" for one in {*rows.trainings, *rows.portraits} - set(rows.jobs))


def _trainings(rows: Rows, stored: dict[str, str]) -> Iterator[str]:
    held = Counter(adapter.training_id for adapter in rows.adapters)
    for training in rows.trainings.values():
        state, count = rows.jobs[training.id].state, held[training.id]
        wanted = 1 if state == JobState.SUCCEEDED else 0
        if count != wanted:
            yield f"{'doubled' if count > wanted else 'lost'}: training {training.id} {state} with {count} adapters"
    for adapter in rows.adapters:
        if rows.trainings[adapter.training_id].adapter_id != adapter.id:
            yield f"doubled: training {adapter.training_id} does not name adapter {adapter.id}"
        if stored.get(adapter.object_key) != adapter.sha256:
            yield f"lost: the weights of {adapter.id} are {'missing' if adapter.object_key not in stored else 'not those of its row'}"


def _adapters(storage: Storage, rows: Rows) -> Iterator[str]:
    """The stored card is the row's, and every sample picture that it promises can be opened."""
    for adapter in rows.adapters:
        try:
            if json.loads(storage.objects.get(adapter_card(adapter.account_id, adapter.id))) != adapter.card:
                yield f"lost: the card of {adapter.id} is not that of its row"
            if not adapter.card["samples"]:
                yield f"lost: the card of {adapter.id} promises no sample"
            for key in _samples(adapter):
                Image.open(BytesIO(storage.objects.get(key))).load()
        except (KeyError, OSError, ValueError) as error:
            yield f"lost: card or samples of {adapter.id}: {type(error).__name__}: {error}"


def _samples(adapter: Adapter) -> list[str]:
    return [adapter_sample(adapter.account_id, adapter.id, sample["file"]) for sample in adapter.card.get("samples", [])]


def _portraits(rows: Rows, stored: dict[str, str]) -> Iterator[str]:
    for portrait in rows.portraits.values():
        state, images = rows.jobs[portrait.id].state, [image for image in rows.images if image.portrait_id == portrait.id]
        wanted = list(range(portrait.count)) if state == JobState.SUCCEEDED else []
        if sorted(image.n for image in images) != wanted:
            yield f"portrait {portrait.id} {state} with pictures {sorted(image.n for image in images)} of {portrait.count}"
    for image in rows.images:
        if stored.get(image.object_key) != image.sha256:
            yield f"lost: picture {image.object_key} is {'missing' if image.object_key not in stored else 'not that of its row'}"


def _mails(rows: Rows, taken: Sequence[tuple[str, str]]) -> Iterator[str]:
    """One event, one mail: by Message-ID. A second copy of the same one is allowed where its sender died, and is counted apart."""
    wanted = {}
    for training in rows.trainings.values():
        event = {JobState.SUCCEEDED: "training_done", JobState.FAILED: "training_failed"}.get(JobState(rows.jobs[training.id].state))
        if event:
            wanted[message_id(f"{event}:{training.id}", "likeness@localhost")] = f"{event} of {training.id}"
    signs = {message_id(mail.dedupe_key, "likeness@localhost") for mail in rows.mails if mail.template == "sign_in"}
    got = {mark for to, mark in taken if to == EMAIL}
    yield from (f"lost: no mail told of {wanted[mark]}" for mark in set(wanted) - got)
    strangers = got - set(wanted) - signs
    if len(strangers) > 1:  # the sign-in mail's row goes once it is sent
        yield f"doubled: {len(strangers) - 1} mails tell of nothing that happened"


def _objects(rows: Rows, stored: dict[str, str]) -> Iterator[str]:
    """After the sweep the store holds what rows name, and nothing else."""
    named = {key for photo in rows.photos for key in (photo.object_key, photo.thumb_key)}
    named |= {image.object_key for image in rows.images}
    for adapter in rows.adapters:
        named |= {adapter.object_key, adapter_card(adapter.account_id, adapter.id), *_samples(adapter)}
    yield from (f"left behind: {key}" for key in sorted(set(stored) - named))
    yield from (f"lost: {key} is named by a row and not stored" for key in sorted(named - set(stored)))


def _counts(rows: Rows, taken: Sequence[tuple[str, str]], stored: dict[str, str]) -> dict[str, Any]:
    jobs = list(rows.jobs.values())
    attempts = Counter(attempt["cause"] for job in jobs for attempt in (job.error or {}).get("attempts", []))
    return {
        "jobs": {f"{kind} {state}": count for (kind, state), count in sorted(Counter((job.kind, job.state) for job in jobs).items())},
        "attempts_lost": dict(attempts),
        "claims": sum(job.fence for job in jobs),
        "mails": len(set(taken)),
        "mail_copies": len(taken) - len(set(taken)),
        "objects": len(stored),
    }
