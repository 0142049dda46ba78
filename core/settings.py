"""Every setting, its default and its meaning, in one place. Read at the edges (command line, workers, app factory) and passed down."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

Precision = Literal["auto", "fp32", "bf16", "fp8", "nf4"]


class Settings(BaseSettings):
    """Read from ``LIKENESS_*`` variables and, if present, a ``.env`` file in the working directory."""

    model_config = SettingsConfigDict(env_prefix="LIKENESS_", env_file=".env", extra="ignore")

    # Where things last. URLs choose the backend, so the embedded default and production run the same code.
    var_dir: Path = Field(Path("var"), description="Folder of the embedded default: database, objects, outbox, caches, logs.")
    database_url: str = Field("", description="SQLAlchemy URL; empty: sqlite in var_dir (WAL). Production: postgresql+psycopg://…")
    broker_url: str = Field("embedded", description="'embedded' (a redis-server child), redis://… or amqp://…")
    store_url: str = Field("", description="file://folder or s3://bucket?endpoint_url=…&region=…; empty: var_dir/objects.")
    mail_url: str = Field(
        "", description="file://folder (one .eml a message) or smtp://user:pass@host:587?tls=starttls; empty: var_dir/outbox."
    )
    mail_from: str = Field("Likeness <likeness@localhost>", description="Sender of all mails; an address of your domain.")
    cache_dir: Path | None = Field(None, description="Worker's disk cache of adapters and scratch; default var_dir/cache.")

    styles_dir: Path | None = Field(None, description="Operator's own styles and style adapters; default var_dir/styles.")

    # The web
    host: str = Field("127.0.0.1", description="Address that the API listens on.")
    port: int = Field(8000, description="Port that the API listens on.")
    public_url: str = Field("", description="How customers reach the site; used in mails. Default http://host:port.")
    secret_key: SecretStr = Field(
        SecretStr(""), description="Signs sessions and receipts; empty: made once and kept in var_dir/secret.key."
    )
    sign_in_ttl_s: int = Field(900, description="How long a sign-in link works (seconds).")
    session_ttl_s: int = Field(30 * 86400, description="How long a browser stays signed in (seconds).")
    presign_ttl_s: int = Field(900, description="How long links to pictures and places for uploads work (seconds).")

    # Photos
    max_photo_bytes: int = Field(30 * 2**20, description="Largest photo that is taken.")
    max_photo_pixels: int = Field(60_000_000, description="More pixels than this are refused before they are decoded.")
    min_photos: int = Field(10, description="Usable photos that a training needs.")
    max_photos: int = Field(20, description="Usable photos that a subject may have.")
    min_photo_side: int = Field(
        0, description="Photos with a shorter side are refused (pixels); 0: by base model (miniature 256, others 512)."
    )
    training_max_side: int = Field(2048, description="Photos are stored re-encoded with no side longer than this (pixels).")

    # Base model and encoders
    base_model: str = Field("miniature", description="'miniature', a hub id such as black-forest-labs/FLUX.1-dev, or a folder.")
    base_revision: str | None = Field(None, description="Commit or tag of a hub id; none: its newest.")
    precision: Precision = Field("auto", description="'auto' (by free GPU memory), 'bf16', 'fp8', 'nf4'; 'fp32' on a CPU.")
    identity_encoder: str = Field("auto", description="'auto': the miniature's own, else facebook/dinov2-small; or a hub id or folder.")
    text_image_encoder: str = Field(
        "auto", description="'auto': the miniature's own, else openai/clip-vit-base-patch32; or a hub id or folder."
    )
    controlnet: str = Field("auto", description="ControlNet for poses: 'auto': the miniature's own, else none; or a hub id or folder.")
    device: str = Field("auto", description="'auto', 'cpu', 'cuda', 'cuda:1' …")
    cpu_threads: int = Field(0, description="Threads for tensor work on the CPU; 0: as many as the machine or the container allows.")

    # Training
    training_steps: int = Field(0, description="Optimizer steps of a training; 0: the recipe's own choice by photo count and base model.")
    train_together: int = Field(
        1, ge=1, le=16, description="Trainings that a worker claims at once and fits in common passes; more than 1 pays for small pictures."
    )
    # Jobs
    lease_s: float = Field(30.0, description="A worker that is silent for so long has lost its job.")
    heartbeat_s: float = Field(5.0, description="How often a worker extends its lease.")
    max_attempts: int = Field(
        3, description="A job that died so often in a row without getting further fails, with its reason; after ten attempts in any case."
    )
    scheduler_interval_s: float = Field(2.0, description="Pause between a scheduler's rounds.")
    shutdown_within_s: float = Field(
        60.0, description="A worker that is told to stop stores a checkpoint and gives its job back; after so long it ends anyway."
    )
    sweep_after_s: float = Field(900.0, description="What attempts left in the object store is swept so long after their job ended.")

    # How long things are kept; customers are told before, and get a receipt after
    photos_kept_days: int = Field(30, ge=0, description="Photos go so long after their last training or upload; 0: never.")
    portraits_kept_days: int = Field(0, ge=0, description="Portraits go so long after they were made; 0: never.")
    idle_account_days: int = Field(0, ge=0, description="An account goes, whole, so long after its last use; 0: never.")
    retention_notice_days: int = Field(7, ge=0, description="The mail that announces it comes so long before.")
    backup_days: int = Field(0, ge=0, description="How long your own backups keep what was erased here; receipts state it. 0: no backups.")

    # Mails and webhooks
    messages_retried_days: float = Field(
        3.0, gt=0, le=30, description="A mail or webhook that its server does not take is tried again for so long, then given up."
    )
    webhooks_allow_private: bool = Field(
        False, description="Also send to private addresses and by plain http: for trying on one machine, never where customers sign up."
    )

    # Rendering
    adapter_cache_bytes: int = Field(2 * 2**30, description="RAM for adapters, of a render worker.")
    adapter_disk_bytes: int = Field(20 * 2**30, description="Disk for adapters of a machine; less where others need it.")
    adapter_gpu_bytes: int = Field(2 * 2**30, description="GPU memory for adapters that are not in a slot; FLUX.1-dev: 180 MB each.")
    overtake_times: int = Field(8, description="Portraits of the adapter in hand may go before an older one so often …")
    overtake_s: float = Field(20.0, description="… and only while it has waited less than this.")
    max_images_per_portrait: int = Field(8, description="Pictures that one request may ask for.")

    redraw_below: float = Field(
        0.5, ge=0, le=1, description="A picture whose likeness is below is drawn again, unless the request names a seed; 0: never."
    )
    redraws: int = Field(1, ge=0, le=8, description="How often at most; the most alike is kept, and each try costs a picture's time.")
    upscaler: str = Field("lanczos", description="'lanczos', or the path of a super-resolution network (safetensors; needs spandrel).")

    # Marks in every picture
    c2pa_certificate: Path | None = Field(
        None, description="PEM chain to sign Content Credentials (C2PA) with, the signer's first; none: unsigned."
    )
    c2pa_key: Path | None = Field(None, description="Its private key, PKCS #8 PEM.")
    c2pa_timestamp_url: str = Field("", description="Time-stamp authority (RFC 3161) to ask at every signature; empty: none.")

    # Safety, before and after rendering
    safety_classifier: str = Field("", description="Picture classifier (folder or hub id) that may refuse pictures; empty: none asked.")
    safety_prompt_classifier: str = Field("", description="Text classifier (folder or hub id) that may refuse prompts; empty: none asked.")
    safety_labels: str = Field("nsfw,porn,hentai,sexy,toxic,unsafe", description="Labels of either that refuse, separated by commas.")
    safety_threshold: float = Field(0.5, ge=0, le=1, description="Probability of such a label from which it refuses.")

    # Money, for the accounts that the operator sees
    gpu_price_per_hour: float = Field(0.0, description="Used to state a cost per adapter and per portrait.")
    currency: str = Field("USD", description="Of that price.")

    # Watching it
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_json: bool = Field(False, description="One JSON object a line instead of key=value for people.")
    metrics_token: SecretStr = Field(
        SecretStr(""), description="Prometheus reads GET /metrics of the API with this bearer token; empty: it is not served there."
    )
    metrics_port: int = Field(0, description="The API serves the same figures on a port of their own, to whoever reaches it; 0: no.")
    metrics_host: str = Field("127.0.0.1", description="Address of metrics_port.")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Settings:
        """What was derived from the old values is derived again."""
        copy = super().model_copy(update=update, deep=deep)
        for name in set(copy.__dict__) - set(type(self).model_fields):
            del copy.__dict__[name]
        return copy

    @cached_property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.var_dir / 'likeness.db'}"

    @cached_property
    def store(self) -> str:
        return self.store_url or f"file://{(self.var_dir / 'objects').absolute()}"

    @cached_property
    def mail(self) -> str:
        return self.mail_url or f"file://{(self.var_dir / 'outbox').absolute()}"

    @cached_property
    def caches(self) -> Path:
        return self.cache_dir or self.var_dir / "cache"

    @cached_property
    def styles(self) -> Path:
        return self.styles_dir or self.var_dir / "styles"

    @cached_property
    def site_url(self) -> str:
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")

    @cached_property
    def miniature_dir(self) -> Path:
        """Folder of the small Flux that ships with the project."""
        spec = importlib.util.find_spec("miniature")
        assert spec and spec.submodule_search_locations
        return Path(spec.submodule_search_locations[0])

    @cached_property
    def base_model_path(self) -> str:
        """What ``from_pretrained`` takes: a folder or a hub id."""
        return str(self.miniature_dir / "flux") if self.base_model == "miniature" else self.base_model

    @cached_property
    def photo_side_floor(self) -> int:
        """Shortest side of a usable photo in pixels: what the base model trains at, unless the operator says otherwise."""
        return self.min_photo_side or (256 if self.base_model == "miniature" else 512)

    @cached_property
    def identity_encoder_path(self) -> str:
        return self._encoder(self.identity_encoder, "dino", "facebook/dinov2-small")

    @cached_property
    def text_image_encoder_path(self) -> str:
        return self._encoder(self.text_image_encoder, "clip", "openai/clip-vit-base-patch32")

    @cached_property
    def controlnet_path(self) -> str:
        """What ``from_pretrained`` takes; empty: no poses."""
        own = self.miniature_dir / "control"
        auto = str(own) if self.base_model == "miniature" and own.is_dir() else ""
        return auto if self.controlnet == "auto" else self.controlnet

    def _encoder(self, setting: str, own: str, hub: str) -> str:
        if setting != "auto":
            return setting
        return str(self.miniature_dir / own) if self.base_model == "miniature" else hub
