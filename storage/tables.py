"""The rows. Every table that holds something of a customer carries ``account_id``, so that erasure and export are one sweep."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator


def now() -> datetime:
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """Always aware and in UTC, also on SQLite, which stores no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


NAMES = {  # so that a migration can name what it changes, on every database
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {datetime: UtcDateTime(), dict[str, Any]: JSON(), list[Any]: JSON()}


def waiting_index(table: str, ended: str) -> Index:
    """Finds what is due without reading past all that was sent before."""
    return partial_index(f"ix_{table}_waiting", "next_attempt_at", f"{ended} IS NULL AND failed_at IS NULL")


def partial_index(name: str, column: str, condition: str) -> Index:
    return Index(name, column, sqlite_where=text(condition), postgresql_where=text(condition))


def list_index(table: str, owner: str) -> Index:
    """For pages of what an owner has, newest first (:mod:`storage.paging`); also for the foreign key itself."""
    return Index(f"ix_{table}_{owner}_list", owner, "created_at", "id")


def account_fk(index: bool = True) -> Mapped[str]:
    return mapped_column(String(40), ForeignKey("accounts.id", ondelete="CASCADE"), index=index)


class Account(Base):
    __tablename__ = "accounts"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    email: Mapped[str] = mapped_column(String(320), unique=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    last_seen_at: Mapped[datetime] = mapped_column(default=now)
    gone: Mapped[bool] = mapped_column(Boolean, default=False)  # erasure is under way: nothing new may start


class SignInToken(Base):
    __tablename__ = "sign_in_tokens"
    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)  # sha-256 hex; the token itself is only in the mail
    email: Mapped[str] = mapped_column(String(320), index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime] = mapped_column()
    used_at: Mapped[datetime | None] = mapped_column()


class WebSession(Base):
    __tablename__ = "web_sessions"
    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    account_id: Mapped[str] = account_fk()
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime] = mapped_column()


class ApiKey(Base):
    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[str] = account_fk()
    name: Mapped[str] = mapped_column(String(80))
    key_hash: Mapped[str] = mapped_column(String(64), unique=True)
    hint: Mapped[str] = mapped_column(String(12))  # the key's first characters, to recognise it in a list
    created_at: Mapped[datetime] = mapped_column(default=now)
    last_used_at: Mapped[datetime | None] = mapped_column()


class Consent(Base):
    """What the customer agreed to, with the very text that was shown."""

    __tablename__ = "consents"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[str] = account_fk()
    subject_id: Mapped[str | None] = mapped_column(String(40), index=True)
    text: Mapped[str] = mapped_column(Text)
    text_sha256: Mapped[str] = mapped_column(String(64))
    given_at: Mapped[datetime] = mapped_column(default=now)


class Subject(Base):
    __tablename__ = "subjects"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[str] = account_fk()
    name: Mapped[str] = mapped_column(String(80))
    kind: Mapped[str] = mapped_column(String(16))  # core.words.SubjectKind
    class_word: Mapped[str] = mapped_column(String(40))
    created_at: Mapped[datetime] = mapped_column(default=now)


class Upload(Base):
    """A presigned place for one file; gone once it has become a photo or was refused."""

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[str] = account_fk()
    subject_id: Mapped[str] = mapped_column(String(40), ForeignKey("subjects.id", ondelete="CASCADE"), index=True)
    filename: Mapped[str] = mapped_column(String(255))
    object_key: Mapped[str] = mapped_column(String(512))
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime] = mapped_column()


class Photo(Base):
    __tablename__ = "photos"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[str] = account_fk()
    subject_id: Mapped[str] = mapped_column(String(40), ForeignKey("subjects.id", ondelete="CASCADE"), index=True)
    filename: Mapped[str] = mapped_column(String(255))  # as the customer named it, shown back to them
    object_key: Mapped[str] = mapped_column(String(512))  # the clean re-encoded picture
    thumb_key: Mapped[str] = mapped_column(String(512))
    sha256: Mapped[str] = mapped_column(String(64))  # of the clean picture's bytes
    dhash: Mapped[str] = mapped_column(String(16))
    width: Mapped[int] = mapped_column(Integer)
    height: Mapped[int] = mapped_column(Integer)
    size_bytes: Mapped[int] = mapped_column(Integer)
    verdict: Mapped[str] = mapped_column(String(16))  # core.words.PhotoVerdict
    reasons: Mapped[list[Any]] = mapped_column(default=list)  # [{code, message, fix}]
    measures: Mapped[dict[str, Any]] = mapped_column(default=dict)  # {sharpness, exposure, faces}: what a comparison with the set needs
    description: Mapped[str] = mapped_column(String(300), default="")  # the customer's own words on the scene, optional
    created_at: Mapped[datetime] = mapped_column(default=now)


class Job(Base):
    """The durable unit behind a training or a portrait. Truth is here; a message on a queue is only a wake-up."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[str] = account_fk()
    kind: Mapped[str] = mapped_column(String(16))  # core.words.JobKind
    target_id: Mapped[str] = mapped_column(String(40), unique=True)  # the training's or the portrait's id
    state: Mapped[str] = mapped_column(String(16))  # core.words.JobState
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    worker: Mapped[str | None] = mapped_column(String(120))
    lease_until: Mapped[datetime | None] = mapped_column(index=True)
    fence: Mapped[int] = mapped_column(Integer, default=0)  # grows with every claim; a write with an older one is refused
    cancel_requested: Mapped[bool] = mapped_column(Boolean, default=False)
    published_at: Mapped[datetime | None] = mapped_column()
    publish_after: Mapped[datetime] = mapped_column(default=now)  # a retry waits, so that a server that is down has time to come back
    progress: Mapped[dict[str, Any]] = mapped_column(default=dict)  # {stage, step, total, loss, eta_s, message, kept, …}
    metrics: Mapped[dict[str, Any]] = mapped_column(default=dict)  # {seconds: {stage: s}, gpu_seconds, cost, …}
    error: Mapped[dict[str, Any] | None] = mapped_column()  # {type, message, attempts: […]}
    created_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None] = mapped_column()
    completed_at: Mapped[datetime | None] = mapped_column()
    swept_at: Mapped[datetime | None] = mapped_column()  # when what its attempts left in the object store went
    counted_at: Mapped[datetime | None] = mapped_column()  # when it was added to the totals, which outlive it

    __table_args__ = (
        Index("ix_jobs_state_kind_created", "state", "kind", "created_at"),
        Index("ix_jobs_state_kind_published", "state", "kind", "published_at"),
        partial_index("ix_jobs_unpublished", "created_at", "published_at IS NULL AND completed_at IS NULL"),
        partial_index("ix_jobs_uncounted", "completed_at", "completed_at IS NOT NULL AND counted_at IS NULL"),
        partial_index("ix_jobs_unswept", "completed_at", "completed_at IS NOT NULL AND swept_at IS NULL"),
    )


class Training(Base):
    __tablename__ = "trainings"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[str] = account_fk(index=False)
    subject_id: Mapped[str] = mapped_column(String(40), ForeignKey("subjects.id", ondelete="CASCADE"), index=True)
    base_model: Mapped[str] = mapped_column(String(200))
    trigger_token: Mapped[str] = mapped_column(String(40))
    seed: Mapped[int] = mapped_column(BigInteger, default=0)
    recipe: Mapped[dict[str, Any]] = mapped_column(default=dict)  # overrides of trainer.recipe.Recipe that the client asked for
    adapter_id: Mapped[str | None] = mapped_column(String(40))
    created_at: Mapped[datetime] = mapped_column(default=now)

    __table_args__ = (list_index("trainings", "account_id"),)


class Adapter(Base):
    __tablename__ = "adapters"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[str] = account_fk()
    subject_id: Mapped[str] = mapped_column(String(40), ForeignKey("subjects.id", ondelete="CASCADE"), index=True)
    training_id: Mapped[str] = mapped_column(String(40), ForeignKey("trainings.id", ondelete="CASCADE"), unique=True)
    object_key: Mapped[str] = mapped_column(String(512))
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    base_model: Mapped[str] = mapped_column(String(200))
    rank: Mapped[int] = mapped_column(Integer)
    alpha: Mapped[float] = mapped_column(Float)
    trigger_token: Mapped[str] = mapped_column(String(40))
    class_word: Mapped[str] = mapped_column(String(40))
    card: Mapped[dict[str, Any]] = mapped_column(default=dict)  # the whole card.json
    created_at: Mapped[datetime] = mapped_column(default=now)


class Portrait(Base):
    """One request for pictures: adapter (or none: the bare base model) and a style or a free prompt."""

    __tablename__ = "portraits"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[str] = account_fk(index=False)
    adapter_id: Mapped[str | None] = mapped_column(String(40), ForeignKey("adapters.id", ondelete="CASCADE"))
    style: Mapped[str | None] = mapped_column(String(40))
    prompt: Mapped[str] = mapped_column(Text)  # as rendered: trigger token and class word already in place
    seed: Mapped[int] = mapped_column(BigInteger)
    count: Mapped[int] = mapped_column(Integer)
    params: Mapped[dict[str, Any]] = mapped_column(
        default=dict
    )  # {mode, lora_scale, guidance_scale, num_inference_steps, width, height, …}
    created_at: Mapped[datetime] = mapped_column(default=now)

    __table_args__ = (list_index("portraits", "account_id"), list_index("portraits", "adapter_id"))


class PortraitImage(Base):
    __tablename__ = "portrait_images"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[str] = account_fk()
    portrait_id: Mapped[str] = mapped_column(String(40), ForeignKey("portraits.id", ondelete="CASCADE"), index=True)
    n: Mapped[int] = mapped_column(Integer)
    seed: Mapped[int] = mapped_column(BigInteger)
    object_key: Mapped[str] = mapped_column(String(512))
    sha256: Mapped[str] = mapped_column(String(64))
    width: Mapped[int] = mapped_column(Integer)
    height: Mapped[int] = mapped_column(Integer)
    likeness: Mapped[float | None] = mapped_column(Float)  # 0 = base model, 1 = held-out real photos; None without an adapter
    created_at: Mapped[datetime] = mapped_column(default=now)

    __table_args__ = (UniqueConstraint("portrait_id", "n"),)


class Mail(Base):
    """A message to send. ``dedupe_key`` makes one mail for one event; the Message-ID is derived from it."""

    __tablename__ = "mails"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[str | None] = mapped_column(String(40), ForeignKey("accounts.id", ondelete="CASCADE"), index=True)
    to: Mapped[str] = mapped_column(String(320))
    template: Mapped[str] = mapped_column(String(40))
    context: Mapped[dict[str, Any]] = mapped_column(default=dict)
    dedupe_key: Mapped[str] = mapped_column(String(120), unique=True)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    next_attempt_at: Mapped[datetime] = mapped_column(default=now)
    sent_at: Mapped[datetime | None] = mapped_column(index=True)
    failed_at: Mapped[datetime | None] = mapped_column()
    last_error: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(default=now)

    __table_args__ = (waiting_index("mails", "sent_at"),)


class Webhook(Base):
    __tablename__ = "webhooks"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[str] = account_fk()
    url: Mapped[str] = mapped_column(String(2000))
    secret: Mapped[str] = mapped_column(String(120))  # whsec_…: what signs must be readable
    previous_secret: Mapped[str | None] = mapped_column(String(120))  # also signs until then, so that a receiver can change over
    previous_until: Mapped[datetime | None] = mapped_column()
    events: Mapped[list[Any]] = mapped_column(default=list)  # types that it wants; empty: all
    created_at: Mapped[datetime] = mapped_column(default=now)


class WebhookDelivery(Base):
    """One message to one endpoint. Its id is the ``webhook-id`` of every attempt."""

    __tablename__ = "webhook_deliveries"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[str] = account_fk()
    webhook_id: Mapped[str] = mapped_column(String(40), ForeignKey("webhooks.id", ondelete="CASCADE"), index=True)
    event: Mapped[str] = mapped_column(String(60))
    payload: Mapped[dict[str, Any]] = mapped_column(default=dict)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    next_attempt_at: Mapped[datetime] = mapped_column(default=now)
    delivered_at: Mapped[datetime | None] = mapped_column()
    failed_at: Mapped[datetime | None] = mapped_column()
    last_status: Mapped[int | None] = mapped_column(Integer)
    last_error: Mapped[str] = mapped_column(Text, default="")
    history: Mapped[list[Any]] = mapped_column(default=list, server_default="[]")  # [{at, status, error, seconds}], one an attempt
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)

    __table_args__ = (waiting_index("webhook_deliveries", "delivered_at"),)


class RetentionNotice(Base):
    """A customer was told that something goes at ``erase_after``: it was last used at ``unused_since``. One at a time for a target."""

    __tablename__ = "retention_notices"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)  # also the target of the erasure that follows
    account_id: Mapped[str] = account_fk()
    scope: Mapped[str] = mapped_column(String(16))  # photos (of a subject) | portraits (of an account) | account
    target_id: Mapped[str] = mapped_column(String(40))
    unused_since: Mapped[datetime] = mapped_column()
    erase_after: Mapped[datetime] = mapped_column(index=True)
    told_at: Mapped[datetime] = mapped_column(default=now)

    __table_args__ = (UniqueConstraint("scope", "target_id"),)


class IdempotencyRecord(Base):
    """The first answer to a POST with an Idempotency-Key; a repeat gets the same answer, a different body gets 409."""

    __tablename__ = "idempotency_records"
    account_id: Mapped[str] = mapped_column(String(40), ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    request_sha256: Mapped[str] = mapped_column(String(64))
    target_id: Mapped[str | None] = mapped_column(String(40))  # of the training or portrait that it made, in the same transaction
    status: Mapped[int | None] = mapped_column(Integer)
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Tombstone(Base):
    """Something erased that a worker may still hold in a cache: checked before use, swept on a timer."""

    __tablename__ = "tombstones"
    target_id: Mapped[str] = mapped_column(String(40), primary_key=True)  # an adapter's id
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)


class Write(Base):
    """An object that a program of ours is storing right now (:mod:`storage.writing`). No ``account_id``: it must outlive an erasure."""

    __tablename__ = "writes"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    key: Mapped[str] = mapped_column(String(512))
    ends_by: Mapped[datetime] = mapped_column()


class Erasure(Base):
    """An erasure under way, so that a crash cannot leave half of it; after it, for an hour, the prefixes to sweep once more."""

    __tablename__ = "erasures"
    target_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    scope: Mapped[str] = mapped_column(String(16))
    account_id: Mapped[str] = mapped_column(String(40))  # no foreign key: the account may be what is erased
    address: Mapped[str] = mapped_column(String(320), default="")  # whose sent mails to erase; emptied once done
    about: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")  # {subject_id, …}: what stays and may be told of it
    prefixes: Mapped[list[Any]] = mapped_column(default=list)
    object_keys: Mapped[list[Any]] = mapped_column(default=list)
    rows: Mapped[dict[str, Any]] = mapped_column(default=dict)  # {table: count}
    digests: Mapped[list[Any]] = mapped_column(default=list)  # sha-256 of each object key found, sorted
    versions: Mapped[int] = mapped_column(Integer, default=0)
    swept_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime] = mapped_column(default=now, index=True)
    finished_at: Mapped[datetime | None] = mapped_column()


class Receipt(Base):
    """Proof of an erasure: counts and digests, never content. Survives the account."""

    __tablename__ = "receipts"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    scope: Mapped[str] = mapped_column(String(16))  # account | subject | adapter | portrait | photo
    target_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    body: Mapped[dict[str, Any]] = mapped_column(default=dict)
    signature: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(default=now)


class Total(Base):
    """What all ended jobs came to, of no account: a job's row goes with its account, and a counter that falls would be misread."""

    __tablename__ = "totals"
    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    labels: Mapped[str] = mapped_column(String(300), primary_key=True)  # canonical JSON: {"kind": "training", …}
    value: Mapped[float] = mapped_column(Float)
