"""The train and the render worker on a real GPU, started as an operator starts them: who opens it, what stays warm between jobs, and what a
CUDA fault in the middle of one costs."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image
from sqlalchemy.orm import Session

from core.settings import Settings
from core.words import JobKind, JobState, PhotoVerdict, new_id
from likeness.gpus import VISIBLE
from storage import keys, photos, portraits, publishing, subjects, trainings
from storage.endings import DEVICE_FAULT
from storage.migrations import upgrade
from storage.redis_child import start_embedded_redis
from storage.tables import Account, Job, Photo, Subject
from storage.wiring import Storage, open_storage
from tests.integration.likeness import faulty_worker
from tests.short_base import short_base

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.timeout(900),  # each worker compiles once, in the first of these
]

ROOT = Path(__file__).parents[3]
PHOTOS = sorted((ROOT / "examples" / "photos" / "juno").glob("*.jpg"))[:5]
SHORT_RECIPE = {"steps": 8, "checkpoint_every": 2, "candidates": [1.0], "validation_images": 1, "validation_steps": 2, "held_out": 1}
QUICK = {"MIN_PHOTOS": "4", "SCHEDULER_INTERVAL_S": "0.5", "LEASE_S": "20", "HEARTBEAT_S": "2", "SHUTDOWN_WITHIN_S": "20"}
DEVICE = "cuda:0"
TRACES = frozenset({"libcuda.so", "libtorch", "/dev/nvidia"})  # of a process that works on a GPU
FAULT = "device-side assert triggered"  # the words of the driver, whoever of torch and Triton passes them on
KINDS = {"train": JobKind.TRAINING, "render": JobKind.PORTRAIT}
WORKER = faulty_worker.__name__
WITHIN_S = 400.0
OWN_GPU = """
import torch
from diffusion.devices import pick_device
device = pick_device()
print(device, torch.cuda.get_device_properties(device).uuid if device.type == "cuda" else torch.cuda.device_count())
"""
ALL_GPUS = "import torch; print(*(torch.cuda.get_device_properties(n).uuid for n in range(torch.cuda.device_count())))"


@dataclass(frozen=True)
class Service:
    """Broker, scheduler and the two workers; ``workers`` are the parents, by role."""

    storage: Storage
    account_id: str
    workers: dict[str, subprocess.Popen[bytes]]

    @property
    def var(self) -> Path:
        return self.storage.settings.var_dir

    def log(self, name: str) -> str:
        return (self.var / f"{name}.log").read_text(errors="replace")

    def loads(self, role: str) -> int:
        """How often a child of this worker has loaded its base model; once it has done so at all."""
        self.until(lambda: "base model loaded" in self.log(role))
        return self.log(role).count("base model loaded")

    def order(self, role: str) -> str:
        """As the API does: rows in one transaction, then a message. The job's id."""
        with self.storage.db.session() as session:
            job = self._training(session) if KINDS[role] == JobKind.TRAINING else self._portrait(session)
        assert publishing.publish_new(self.storage, job)
        return job.id

    def row(self, job_id: str) -> Job:
        with self.storage.db.reader() as session:
            return session.get_one(Job, job_id)

    def ended(self, job_id: str) -> Job:
        self.until(lambda: JobState(self.row(job_id).state).ended)
        return self.row(job_id)

    def until(self, holds: Callable[[], object]) -> None:
        ends = time.monotonic() + WITHIN_S
        while not holds():
            if time.monotonic() > ends or any(worker.poll() is not None for worker in self.workers.values()):
                pytest.fail("it did not happen:\n" + "\n".join(f"{role}:\n{self.log(role)[-4000:]}" for role in self.workers))
            time.sleep(0.1)

    def _training(self, session: Session) -> Job:
        subject = subjects.create(session, self.account_id, "Juno", "dog", "I agree.")
        for path in PHOTOS:
            photos.add(session, self.storage.settings, self._photo(subject, path))
        return trainings.create(session, self.storage.settings, self.account_id, subject.id, seed=1)[1]

    def _portrait(self, session: Session) -> Job:
        """Of the bare base, in steps that are enough for a fault to come between."""
        settings, few = self.storage.settings, {"num_inference_steps": 4}
        return portraits.create(
            session, settings, self.account_id, adapter_id=None, style="oil-painting", class_word="cat", seed=1, params=few
        )[1]

    def _photo(self, subject: Subject, path: Path) -> Photo:
        photo_id, data = new_id("pho"), path.read_bytes()
        key, (width, height) = keys.photo(self.account_id, subject.id, photo_id), Image.open(path).size
        self.storage.objects.put(key, data)
        photo = Photo(id=photo_id, account_id=self.account_id, subject_id=subject.id, filename=path.name, object_key=key, thumb_key=key)
        photo.sha256, photo.dhash, photo.width, photo.height = hashlib.sha256(data).hexdigest(), "0" * 16, width, height
        photo.size_bytes, photo.verdict, photo.reasons, photo.measures = len(data), PhotoVerdict.GOOD, [], {}
        return photo


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with _started(tmp_path_factory.mktemp("gpu") / "var", {"train": "0", "render": "0"}) as running:
        yield running


@contextmanager
def _started(var: Path, workers: dict[str, str]) -> Iterator[Service]:
    """``workers``: role → the GPUs that its worker is given."""
    var.mkdir()
    environment = _environment(var)
    own = {name.removeprefix("LIKENESS_").lower(): value for name, value in environment.items() if name.startswith("LIKENESS_")}
    settings = Settings(_env_file=None, **own)  # type: ignore[arg-type]
    upgrade(settings.database)
    with ExitStack() as stack:
        stack.callback(start_embedded_redis(settings).stop)
        storage = open_storage(settings)
        stack.callback(storage.db.close)
        account = Account(id=new_id("acc"), email="ada@example.com")
        with storage.db.session() as session:
            session.add(account)
        stack.enter_context(_running(environment, var / "scheduler.log", "likeness.cli", "scheduler"))
        parents = {
            role: stack.enter_context(_running(environment | {VISIBLE: gpus}, var / f"{role}.log", WORKER, "worker", role))
            for role, gpus in workers.items()
        }
        yield Service(storage, account.id, parents)


def _environment(var: Path) -> dict[str, str]:
    """This process's own without its settings: CUDA, paths and threads as they are here."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIKENESS_")}
    path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))
    own = QUICK | {"VAR_DIR": str(var), "SECRET_KEY": "x" * 32, "BROKER_URL": "embedded", "DEVICE": "auto"}
    settings = short_base(var / "base", **SHORT_RECIPE) | {f"LIKENESS_{name}": value for name, value in own.items()}
    return kept | settings | {"PYTHONPATH": path}


@contextmanager
def _running(environment: dict[str, str], log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """In its own folder, where no ``.env`` lies. It must end when it is asked to; its whole group is gone afterwards in any case."""
    command = [sys.executable, "-m", *arguments]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=log.parent,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def traces(pid: int) -> set[str]:
    """What of torch and CUDA a process has mapped or holds open."""
    held = [Path(f"/proc/{pid}/maps").read_text()]
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            held.append(os.readlink(descriptor))
    return {trace for trace in TRACES if any(trace in one for one in held)}


def pid_of(worker: str | None) -> int:
    """A worker's name is ``role-pid@host``."""
    return int(str(worker).partition("@")[0].rpartition("-")[2])


@pytest.mark.parametrize("role", KINDS)
def test_the_child_opens_the_gpu_and_the_parent_never_does(service: Service, role: str) -> None:
    parent = psutil.Process(service.workers[role].pid)
    service.until(lambda: [child.pid for child in parent.children() if traces(child.pid) == TRACES])
    assert traces(parent.pid) == set()


@pytest.mark.parametrize("role", KINDS)
def test_jobs_in_a_row_are_one_childs_and_the_base_stays_warm(service: Service, role: str) -> None:
    before = service.loads(role)
    first, second = [service.ended(job_id) for job_id in [service.order(role), service.order(role)]]
    assert [(job.state, job.attempts) for job in (first, second)] == [(JobState.SUCCEEDED, 1)] * 2, (first.error, second.error)
    assert first.worker == second.worker and psutil.Process(pid_of(first.worker)).ppid() == service.workers[role].pid
    assert {job.metrics["device"] for job in (first, second)} == {DEVICE}
    assert service.loads(role) == before


@pytest.mark.parametrize("role", KINDS)
def test_a_cuda_fault_costs_the_job_an_attempt_and_the_worker_its_child(service: Service, role: str) -> None:
    before, flag = service.loads(role), service.var / "fault"
    flag.touch()
    job_id = service.order(role)
    service.until(lambda: service.row(job_id).error)
    (attempt,) = (service.row(job_id).error or {})["attempts"]
    assert FAULT in attempt["message"] and attempt["cause"] == DEVICE_FAULT, attempt
    assert not flag.exists()
    ended = service.ended(job_id)
    assert (ended.state, ended.attempts) == (JobState.SUCCEEDED, 2), ended.error
    faulted, replaced, parent = pid_of(attempt["worker"]), pid_of(ended.worker), service.workers[role].pid
    assert not psutil.pid_exists(faulted) and psutil.Process(replaced).ppid() == parent
    assert service.loads(role) == before + 1
    assert (traces(parent), traces(replaced)) == (set(), TRACES)


def test_there_is_a_child_for_each_gpu(tmp_path: Path) -> None:
    """Where there is one GPU only, it stands for two."""
    gpus = f"0,{min(1, torch.cuda.device_count() - 1)}"
    with _started(tmp_path / "var", {"render": gpus}) as several:
        parent = psutil.Process(several.workers["render"].pid)
        several.until(lambda: len([child.pid for child in parent.children() if traces(child.pid) == TRACES]) == 2)
        drawn = [several.ended(job_id) for job_id in [several.order("render"), several.order("render")]]
        assert [job.state for job in drawn] == [JobState.SUCCEEDED] * 2
        assert {pid_of(job.worker) for job in drawn} == {child.pid for child in parent.children()}
        assert traces(parent.pid) == set()


def test_a_process_gets_the_gpu_that_its_environment_names_or_the_cpu() -> None:
    """What a unit's ``CUDA_VISIBLE_DEVICES`` says: each GPU by its UUID, and none."""
    seen = {uuid: _printed(OWN_GPU, f"GPU-{uuid}") for uuid in _printed(ALL_GPUS)}
    assert seen and seen == {uuid: [DEVICE, uuid] for uuid in seen}
    assert _printed(OWN_GPU, "") == ["cpu", "0"]


def _printed(program: str, visible: str | None = None) -> list[str]:
    environment = os.environ | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=ROOT, check=True, capture_output=True, text=True, timeout=300
    )
    return ran.stdout.split()
