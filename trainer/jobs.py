"""A training as a job: its rows and photos in, its checkpoints and adapter out, all under the lease."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image
from sqlalchemy.orm import Session

from core.errors import JobFailed, ServiceDown
from core.settings import Settings
from core.words import TrainingStage
from storage import adapters, keys, mails, photos
from storage.accounting import bill, device_seconds
from storage.disk_tier import DiskTier
from storage.jobs import Lease
from storage.locks import hold_account
from storage.tables import Account, Adapter, Photo, Subject, Training
from storage.wiring import Storage
from trainer.captions import SubjectWords
from trainer.company import ALONE, Company
from trainer.curation import Curated, Finding
from trainer.hosting import HostingWatch
from trainer.keeping import CheckpointKeeper, fetch_checkpoints
from trainer.photos import TrainingPhoto
from trainer.pipeline import CARD_FILE, Run, TrainedAdapter, train
from trainer.recipe import Recipe
from trainer.scratch import scratch

if TYPE_CHECKING:
    from trainer.worker import TrainerState

OTHER_BASE = "This training was asked for on {asked}; the service trains on {here} now. Please start it again."


@dataclass(frozen=True)
class Order:
    """What the rows say, detached from their session."""

    training: Training
    subject: Subject
    photos: list[Photo]

    @property
    def prefix(self) -> str:
        return keys.training_prefix(self.training.account_id, self.subject.id, self.training.id)

    def attempt_prefix(self, fence: int) -> str:
        return keys.training_attempt(self.training.account_id, self.subject.id, self.training.id, fence)


def run_training(state: TrainerState, lease: Lease, company: Company | None = None) -> None:
    """The work of one training job. Idempotent: another worker that repeats it goes on from the newest stored checkpoint.

    ``company``: trainings that this worker works on at the same time.
    """
    storage = state.storage
    order = read_order(storage, lease)
    with scratch(storage.settings.caches / "trainings", f"{order.training.id}-{lease.fence}") as folder:
        make_room = DiskTier.of(storage.settings).make_room
        fetch_checkpoints(storage, order.prefix, folder, make_room)
        keeper = CheckpointKeeper(lease, order.attempt_prefix(lease.fence))
        bench = state.bench()
        lease.metrics(device=str(bench.base.device))
        trained = train(
            bench,
            fetch_photos(storage, order),
            make_run(storage.settings, order, Recipe.for_run(len(order.photos), bench.base, _overrides(storage.settings, order))),
            folder,
            HostingWatch(lease, state.guest) if state.guest else lease,
            on_curated=lambda curated: record_findings(storage, order, curated),
            on_saved=keeper.keep,
            between_steps=state.guest or (lambda: None),
            make_room=make_room,
            company=company or ALONE,
        )
        with lease.stage(TrainingStage.STORE):
            adapter = store(lease, order, trained)
        lease.metrics(**bill(storage.settings, str(bench.base.device), device_seconds(lease.all_metrics()["seconds"])))
        finish(lease, order, adapter)
    with suppress(ServiceDown):  # then the scheduler's sweep does it
        storage.objects.erase(order.prefix)


def read_order(storage: Storage, lease: Lease) -> Order:
    with storage.db.reader() as session:
        training = session.get(Training, lease.target_id)
        subject = session.get(Subject, training.subject_id) if training else None
        if training is None or subject is None:
            raise JobFailed("The subject of this training was erased.")
        if training.base_model != storage.settings.base_model:
            raise JobFailed(OTHER_BASE.format(asked=training.base_model, here=storage.settings.base_model))
        return Order(training, subject, photos.usable(session, subject.id))


def make_run(settings: Settings, order: Order, recipe: Recipe) -> Run:
    training = order.training
    words = SubjectWords(training.trigger_token, order.subject.class_word)
    return Run(words, order.subject.kind, recipe, training.base_model, training.seed, settings.min_photos)


def _overrides(settings: Settings, order: Order) -> dict:
    """The client's own, over the operator's number of steps."""
    asked = {name: value for name, value in order.training.recipe.items() if value is not None}
    return ({"steps": settings.training_steps} if settings.training_steps else {}) | asked


def fetch_photos(storage: Storage, order: Order) -> list[TrainingPhoto]:
    """Decoded from the store. They were re-encoded by us at upload, so they are plain RGB pictures of bounded size."""
    return [
        TrainingPhoto(photo.sha256, photo.filename, _decode(storage.objects.get(photo.object_key)), photo.description)
        for photo in order.photos
    ]


def _decode(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def record_findings(storage: Storage, order: Order, curated: Curated) -> None:
    """The customer sees at once which photos were left out, and why; what was good before stays as it was."""
    dropped = {finding.key: finding for finding in curated.findings if finding.reasons}
    if not dropped:
        return
    with storage.db.session() as session:
        hold_account(session, order.training.account_id)
        for row in order.photos:
            photo = session.get(Photo, row.id)
            if photo is not None and photo.sha256 in dropped:
                _judge(photo, dropped[photo.sha256])


def _judge(photo: Photo, finding: Finding) -> None:
    known = {reason.get("code") for reason in photo.reasons}
    added = [reason.as_dict() for reason in finding.reasons if reason.code not in known]
    photos.judge(photo, finding.verdict, [*photo.reasons, *added])


def store(lease: Lease, order: Order, trained: TrainedAdapter) -> Adapter:
    """Weights and card under the account's prefix; the row is returned, not yet in the database."""
    adapter_id, account = adapters.adapter_id_of(order.training.id, lease.fence), order.training.account_id
    card = trained.card
    lease.put(keys.adapter_weights(account, adapter_id), trained.path)
    lease.put(keys.adapter_card(account, adapter_id), trained.path.with_name(CARD_FILE), "application/json")
    for sample in card["samples"]:
        lease.put(keys.adapter_sample(account, adapter_id, sample["file"]), trained.path.with_name(sample["file"]), "image/png")
    return Adapter(
        id=adapter_id,
        account_id=account,
        subject_id=order.subject.id,
        training_id=order.training.id,
        object_key=keys.adapter_weights(account, adapter_id),
        sha256=card["weights"]["sha256"],
        size_bytes=card["weights"]["size_bytes"],
        base_model=order.training.base_model,
        rank=card["rank"],
        alpha=card["alpha"],
        trigger_token=card["trigger_token"],
        class_word=card["class_word"],
        card=json.loads(json.dumps(card)),
    )


def finish(lease: Lease, order: Order, adapter: Adapter) -> None:
    """One transaction: the adapter's row, the training's link to it, the customer's mail, the job's end."""
    lease.metrics(scores=adapter.card["scores"], steps=adapter.card["steps"])

    def write(session: Session) -> None:
        adapters.add(session, adapter)
        _tell(session, order, adapter)

    lease.finish(write)


def _tell(session: Session, order: Order, adapter: Adapter) -> None:
    account = session.get_one(Account, adapter.account_id)
    context = {
        "subject_id": order.subject.id,
        "subject_name": order.subject.name,
        "training_id": order.training.id,
        "adapter_id": adapter.id,
    }
    mails.enqueue(session, account.email, "training_done", context, f"training_done:{order.training.id}", account.id)
