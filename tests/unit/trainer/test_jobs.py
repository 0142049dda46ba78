"""A training as a job, on a real database and a real folder of objects."""

import hashlib
import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from core.errors import ServiceDown
from core.settings import Settings
from core.words import JobKind, JobState, PhotoVerdict, new_id
from storage import jobs, keys, subjects
from storage.disk_tier import DiskTier
from storage.tables import Account, Adapter, Job, Mail, Photo, Subject, Training
from storage.wiring import Storage, open_storage
from tests.tiny import build_tiny_flux
from tests.tiny_encoders import build_tiny_clip, build_tiny_dino
from tests.unit.trainer.conftest import stripes
from trainer.bench import Bench
from trainer.jobs import run_training
from trainer.worker import TrainerState, create_app, run_job


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    settings = Settings(_env_file=None, var_dir=tmp_path / "var", min_photos=8, secret_key="x" * 32)  # type: ignore[call-arg]
    storage = open_storage(settings)
    storage.db.create_all()
    yield storage
    storage.db.close()


@pytest.fixture
def state(storage: Storage, bench: Bench) -> TrainerState:
    return TrainerState(storage, bench)


def order(
    storage: Storage, photos: int = 9, recipe: dict | None = None, base_model: str = "", customer: str = "ada"
) -> tuple[Training, Job]:
    account = Account(id=new_id("acc"), email=f"{customer}@example.com")
    with storage.db.session() as session:
        session.add(account)
        session.flush()
        subject = subjects.create(session, account.id, "Miso", "cat", "I agree.")
        session.flush()
        for number in range(photos):
            session.add(_photo(storage, subject, number))
        training = Training(
            id=new_id("trn"),
            account_id=account.id,
            subject_id=subject.id,
            base_model=base_model or storage.settings.base_model,
            trigger_token="zokzex",
            seed=1,
        )
        training.recipe = {"validation_images": 1} | (recipe or {})
        session.add(training)
        session.flush()
        return training, jobs.create(session, account.id, JobKind.TRAINING, training.id)


def _photo(storage: Storage, subject: Subject, number: int) -> Photo:
    photo_id, data = new_id("pho"), io.BytesIO()
    stripes(number, (64, 64)).save(data, "PNG")
    key = keys.photo(subject.account_id, subject.id, photo_id, "png")
    storage.objects.put(key, data.getvalue())
    photo = Photo(id=photo_id, account_id=subject.account_id, subject_id=subject.id, filename=f"{number}.png", object_key=key)
    photo.thumb_key, photo.dhash, photo.width, photo.height, photo.size_bytes = key, "0" * 16, 64, 64, len(data.getvalue())
    photo.sha256, photo.verdict, photo.reasons, photo.measures = f"{number:064x}", PhotoVerdict.GOOD, [], {}
    return photo


def job_of(storage: Storage, job: Job) -> Job:
    with storage.db.reader() as session:
        return session.get_one(Job, job.id)


def test_a_training_ends_with_adapter_card_row_link_and_mail(storage: Storage, state: TrainerState) -> None:
    training, job = order(storage)
    assert run_job(state, job.id) == "succeeded"
    with storage.db.reader() as session:
        adapter = session.get_one(Adapter, session.get_one(Training, training.id).adapter_id)
        (mail,) = session.query(Mail).all()
        ended = session.get_one(Job, job.id)
    assert ended.state == JobState.SUCCEEDED
    assert list(ended.metrics["seconds"]) == ["curate", "caption", "encode", "fit", "select", "store"]
    assert ended.metrics["device_seconds"] == pytest.approx(sum(ended.metrics["seconds"].values()), abs=0.01)
    assert ended.metrics["device"] == "cpu"
    assert (mail.template, mail.to, mail.context["adapter_id"]) == ("training_done", "ada@example.com", adapter.id)
    assert storage.objects.size(adapter.object_key) == adapter.size_bytes
    assert storage.objects.exists(keys.adapter_card(training.account_id, adapter.id))
    (sample,) = adapter.card["samples"]
    assert storage.objects.exists(keys.adapter_sample(training.account_id, adapter.id, sample["file"]))
    assert adapter.card["scores"]["likeness"].keys() >= {"base", "adapter", "real"}


def test_checkpoints_and_scratch_are_gone_afterwards(storage: Storage, state: TrainerState) -> None:
    training, job = order(storage)
    run_job(state, job.id)
    assert list(storage.objects.list(keys.training_prefix(training.account_id, training.subject_id, training.id))) == []
    assert list((storage.settings.caches / "trainings").iterdir()) == []


def test_a_full_disk_takes_the_room_of_adapters_that_can_be_fetched_again(
    storage: Storage, state: TrainerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = DiskTier.of(storage.settings)
    cached.admit(6)
    cached.path("adp_1").write_bytes(b"cached")
    usage = shutil.disk_usage(cached.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=0 if cached.ids() else usage.free))
    _, job = order(storage)
    assert run_job(state, job.id) == "succeeded"
    assert cached.ids() == []


class DiesAt:
    """Lets a job run until its n-th step, then dies as a worker that is killed would: no clean-up is done by the job itself."""

    def __init__(self, lease: jobs.Lease, step: int) -> None:
        self.lease, self.step = lease, step
        self.steps: list[int] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self.lease, name)

    def progress(self, **snapshot: object) -> None:
        self.lease.progress(**snapshot)
        if "loss" in snapshot:
            self.steps.append(int(str(snapshot["step"])))
            if self.steps[-1] == self.step:
                raise RuntimeError("killed")


def test_another_worker_goes_on_from_the_stored_checkpoint_to_the_same_adapter(storage: Storage, state: TrainerState) -> None:
    recipe = {"checkpoint_every": 2}
    _, whole = order(storage, recipe=recipe)
    run_job(state, whole.id)
    with storage.db.session() as session:
        session.query(Account).delete()

    training, job = order(storage, recipe=recipe)
    attempts: list[DiesAt] = []

    def work(lease: jobs.Lease) -> None:
        attempts.append(DiesAt(lease, step=5 if not attempts else 99))
        run_training(state, attempts[-1])  # type: ignore[arg-type]

    assert jobs.run(storage, job.id, "first", work) == "requeued"
    assert jobs.run(storage, job.id, "second", work) == "succeeded"
    assert attempts[1].steps == [5, 6]
    with storage.db.reader() as session:
        adapter = session.query(Adapter).filter_by(training_id=training.id).one()
    assert adapter.card["weights"]["sha256"] == state_digest(storage, whole, adapter)


def test_a_worker_told_to_stop_leaves_a_checkpoint_at_the_step_it_reached(storage: Storage, state: TrainerState) -> None:
    """No regular checkpoint is near; the next worker goes on from the very step, to the same adapter."""
    recipe = {"checkpoint_every": 100}
    _, whole = order(storage, recipe=recipe)
    run_job(state, whole.id)
    with storage.db.session() as session:
        session.query(Account).delete()

    training, job = order(storage, recipe=recipe)
    told = DiesAt(None, step=99)  # type: ignore[arg-type]

    def work(lease: jobs.Lease) -> None:
        told.lease = lease
        run_training(state, told)  # type: ignore[arg-type]

    assert jobs.run(storage, job.id, "first", work, stopping=lambda: told.steps[-1:] == [3]) == "handed back"
    assert jobs.run(storage, job.id, "second", work) == "succeeded"
    assert told.steps == [1, 2, 3, 4, 5, 6]
    assert job_of(storage, job).attempts == 1
    with storage.db.reader() as session:
        adapter = session.query(Adapter).filter_by(training_id=training.id).one()
    assert adapter.card["weights"]["sha256"] == state_digest(storage, whole, adapter)


class Flaky:
    """An object store that is down for the first ``fails`` puts of a name."""

    def __init__(self, storage: Storage, name: str, fails: int) -> None:
        self.storage, self.name, self.fails = storage, name, fails
        self.stored: list[str] = []

    def put(self, key: str, data: object, content_type: str = "") -> None:
        if key.endswith(self.name) and self.fails:
            self.fails -= 1
            raise ServiceDown("the object store does not answer")
        self.stored.append(key.rpartition("/")[2])
        self.storage.objects.put(key, data, content_type)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> object:
        return getattr(self.storage.objects, name)


def test_a_state_never_overtakes_a_candidate_that_could_not_be_stored(storage: Storage, state: TrainerState) -> None:
    """Else whoever resumes from the last state would find nothing to choose from."""
    _, job = order(storage, recipe={"checkpoint_every": 3, "candidates": (0.5, 1.0)})
    store = Flaky(storage, "candidate-000003.safetensors", fails=1)
    flaky = TrainerState(replace(storage, objects=store), state.bench())  # type: ignore[arg-type]
    assert run_job(flaky, job.id) == "succeeded"
    names = [name for name in store.stored if name.startswith(("state", "candidate"))]
    assert names == ["candidate-000003.safetensors", "state.safetensors", "candidate-000006.safetensors", "state.safetensors"]
    with storage.db.reader() as session:
        assert session.get_one(Job, job.id).progress["kept"] == 6, "so much was left to whoever would have gone on"


def test_a_training_for_another_base_model_says_so(storage: Storage, state: TrainerState) -> None:
    _, job = order(storage, base_model="black-forest-labs/FLUX.1-dev")
    assert run_job(state, job.id) == "failed"
    assert "FLUX.1-dev" in job_of(storage, job).error["message"]


def state_digest(storage: Storage, whole: Job, adapter: Adapter) -> str:
    """The uninterrupted run's weights, which outlive its rows here."""
    (key,) = [key for key in storage.objects.list("accounts/") if key.endswith("adapter.safetensors") and key != adapter.object_key]
    return hashlib.sha256(storage.objects.get(key)).hexdigest()


def test_a_cancel_stops_the_fit_and_leaves_nothing(storage: Storage, state: TrainerState) -> None:
    _training, job = order(storage)

    def work(lease: jobs.Lease) -> None:
        class CancelsItself(DiesAt):
            def progress(self, **snapshot: object) -> None:
                self.lease.progress(**snapshot)
                if "loss" in snapshot:
                    with storage.db.session() as session:
                        jobs.request_cancel(session, session.get_one(Job, job.id))
                    self.lease._looked_at = 0.0  # do not wait for the second that check() may skip

        run_training(state, CancelsItself(lease, 0))  # type: ignore[arg-type]

    assert jobs.run(storage, job.id, "worker", work) == "canceled"
    with storage.db.reader() as session:
        assert session.query(Adapter).count() == 0 and session.query(Mail).count() == 0


def test_a_bad_recipe_fails_with_its_reason_and_is_not_retried(storage: Storage, state: TrainerState) -> None:
    _, job = order(storage, recipe={"rank": 0})
    assert run_job(state, job.id) == "failed"
    assert "rank" in job_of(storage, job).error["message"]


def test_too_few_photos_left_fail_the_job_and_tell_the_customer(storage: Storage, state: TrainerState) -> None:
    _, job = order(storage, photos=5)
    assert run_job(state, job.id) == "failed"
    with storage.db.reader() as session:
        (mail,) = session.query(Mail).all()
    assert mail.template == "training_failed"
    assert "add 3 more" in mail.context["reason"]


def test_a_photo_that_is_left_out_says_so_even_if_the_training_fails_over_it(storage: Storage, state: TrainerState) -> None:
    training, job = order(storage, photos=8)
    other = Bench(state.bench().base, OneStranger(), state.bench().text_image)  # type: ignore[arg-type]
    assert run_job(TrainerState(storage, other), job.id) == "failed"
    with storage.db.reader() as session:
        rejected = session.query(Photo).filter_by(subject_id=training.subject_id, verdict=PhotoVerdict.REJECTED).all()
    assert [reason["code"] for photo in rejected for reason in photo.reasons] == ["photo/another-subject"]
    assert rejected[0].filename in job_of(storage, job).error["message"]


class OneStranger:
    """Sees the same subject in all pictures but the last."""

    id = "one-stranger"

    def embed(self, images: list) -> torch.Tensor:
        return torch.eye(2)[[0] * (len(images) - 1) + [1]]


def test_a_client_sees_steps_of_its_own_recipe(storage: Storage, state: TrainerState) -> None:
    _, job = order(storage, recipe={"steps": 3, "rank": None})
    assert run_job(state, job.id) == "succeeded"
    assert job_of(storage, job).metrics["steps"] <= 3


def test_the_celery_parent_imports_no_torch() -> None:
    code = "import sys, trainer.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_celery_task_loads_what_the_settings_name_and_trains(storage: Storage, tmp_path: Path) -> None:
    folders = {"base_model": build_tiny_flux(tmp_path / "flux"), "identity_encoder": build_tiny_dino(tmp_path / "dino")}
    folders["text_image_encoder"] = build_tiny_clip(tmp_path / "clip")
    settings = Settings(**storage.settings.model_dump() | {name: str(path) for name, path in folders.items()})
    settings = settings.model_copy(update={"broker_url": "redis://localhost:1", "training_steps": 2})
    _, job = order(storage, base_model=settings.base_model)
    app = create_app(settings)
    assert app.tasks["likeness.run_training"](job.id) == "succeeded"
    assert job_of(storage, job).metrics["steps"] <= 2


def test_waiting_trainings_are_fitted_together_and_each_ends_by_itself(storage: Storage, bench: Bench) -> None:
    """Three customers, one of them without enough photos: one message, three jobs ended, adapters as if each had been alone."""
    _, alone = order(storage)
    assert run_job(TrainerState(storage, bench), alone.id) == "succeeded"
    with storage.db.session() as session:
        session.query(Account).delete()
    storage.settings.train_together = 3
    bench.seats.remove()
    bench.seats.count = 3
    jobs_made = [
        order(storage)[1],
        order(storage, photos=5, customer="bob")[1],
        order(storage, recipe={"steps": 3}, customer="eve")[1],
    ]
    try:
        assert run_job(TrainerState(storage, bench), jobs_made[0].id) == "succeeded"
    finally:
        bench.seats.remove()
        bench.seats.count = 1
    ended = [job_of(storage, job) for job in jobs_made]
    assert [job.state for job in ended] == [JobState.SUCCEEDED, JobState.FAILED, JobState.SUCCEEDED]
    assert "add 3 more" in ended[1].error["message"]
    with storage.db.reader() as session:
        together = (
            session.query(Adapter).join(Training, Training.id == Adapter.training_id).filter(Training.id == jobs_made[0].target_id).one()
        )
    keys_found = [key for key in storage.objects.list("accounts/") if key.endswith("adapter.safetensors")]
    states = {key: load(storage.objects.get(key)) for key in keys_found}
    mine = states.pop(together.object_key)
    distances = [max(float((mine[name] - other[name]).abs().max()) for name in mine) for other in states.values()]
    assert min(distances) < 1e-5 < max(distances)  # the one that was alone; and the one of three steps
