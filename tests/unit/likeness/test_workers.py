"""A child a GPU: as many as the environment or the driver names, each with one of them, and none where there is none."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
import torch

from core.settings import Settings
from diffusion.devices import pick_device
from likeness import gpus as gpu_names
from likeness import up, workers
from likeness.gpus import listed_gpus, visible_gpus
from likeness.supervisor import Supervisor

GPUS = ["1", "0,1", "GPU-5f1c0a52-9d6e-3a0b-8a3e-6d0f2b1c4e77", "MIG-6c8f1f0a-2d5b-5a57-9d1c-0f3a7b6e2d10", "MIG-GPU-5f1c0a52/1/0", ""]
TWO_GPUS = "GPU 0: NVIDIA H200 (UUID: GPU-aaaa)\nGPU 1: NVIDIA H200 (UUID: GPU-bbbb)\n"
SLICED = """GPU 0: NVIDIA A100 (UUID: GPU-a)
  MIG 3g.40gb     Device  0: (UUID: MIG-1)
  MIG 3g.40gb     Device  1: (UUID: MIG-2)
GPU 1: NVIDIA A100 (UUID: GPU-b)
"""
TELL = "import os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(os.environ.get('CUDA_VISIBLE_DEVICES', 'not set'))"


class FakeApp:
    """Celery, as far as a worker is started by it: keeps the command line, and what CUDA would read just then."""

    def __init__(self) -> None:
        self.arguments: list[str] = []
        self.visible: str | None = None

    def worker_main(self, arguments: list[str]) -> None:
        self.arguments, self.visible = arguments, os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> FakeApp:
    app = FakeApp()
    monkeypatch.setattr(workers, "app_for", lambda role, settings: app)
    return app


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, var_dir=tmp_path, broker_url="redis://localhost:1/0")


@pytest.mark.parametrize(("role", "queues"), [("train", "train"), ("render", "render"), ("both", "train,render")])
def test_a_worker_is_one_forked_child_that_serves_its_roles_queues(started: FakeApp, settings: Settings, role: str, queues: str) -> None:
    workers.run_worker(role, settings)
    assert {f"--queues={queues}", "--pool=prefork", "--concurrency=1"} <= set(started.arguments)


@pytest.mark.parametrize(
    ("visible", "most", "children"),
    [("0,1,2", 0, 3), ("0,1,2", 2, 2), ("0", 0, 1), ("", 0, 1), ("-1", 0, 1), ("0,-1,1", 0, 1), ("0, 1", 0, 2)],
)
def test_there_is_a_child_for_each_gpu(
    started: FakeApp, settings: Settings, monkeypatch: pytest.MonkeyPatch, visible: str, most: int, children: int
) -> None:
    dealt: list[list[str]] = []
    monkeypatch.setattr(workers, "deal", dealt.append)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    workers.run_worker("train", settings, most)
    assert f"--concurrency={children}" in started.arguments
    assert dealt == ([visible_gpus()[:children]] if children > 1 else [])


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_a_device_that_is_named_has_one_child(started: FakeApp, settings: Settings, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    workers.run_worker("train", settings.model_copy(update={"device": device}))
    assert "--concurrency=1" in started.arguments


def test_without_names_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpu_names, "_driver_list", lambda: TWO_GPUS)
    assert visible_gpus() == ["GPU-aaaa", "GPU-bbbb"]


@pytest.mark.parametrize(
    ("listing", "names"),
    [
        ("", []),
        ("No devices were found\n", []),
        ("GPU 0: NVIDIA L4 (UUID: GPU-a)\n", ["GPU-a"]),
        ("GPU 0: A (UUID: GPU-a)\n\nGPU 1: B (UUID: GPU-b)\n", ["GPU-a", "GPU-b"]),
    ],
)
def test_what_the_driver_lists(listing: str, names: list[str]) -> None:
    assert listed_gpus(listing) == names


def test_a_gpu_in_slices_is_its_slices() -> None:
    assert listed_gpus(SLICED) == ["MIG-1", "MIG-2", "GPU-b"]


def test_workers_of_one_machine_have_names_of_their_own(started: FakeApp, settings: Settings) -> None:
    """Else Celery takes two of one role for the same, and a process a GPU is what a machine with several runs."""
    workers.run_worker("train", settings)
    (name,) = [argument for argument in started.arguments if argument.startswith("--hostname=")]
    assert name.startswith(f"--hostname=train-{os.getpid()}@")


@pytest.mark.parametrize("gpus", [gpus for gpus in GPUS if "," not in gpus])
def test_the_gpu_that_an_operator_names_stays_named_so(
    started: FakeApp, settings: Settings, gpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By number, UUID or MIG slice: CUDA alone reads it, in the child."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    workers.run_worker("train", settings)
    assert started.visible == gpus


@pytest.mark.parametrize("gpus", GPUS)
def test_what_up_starts_sees_the_gpus_that_up_was_given(gpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    note = tmp_path / "note"
    with Supervisor(lambda _: None) as group:
        child = group.add("worker", [sys.executable, "-c", TELL, str(note)], tmp_path / "log")
        ends = time.monotonic() + 20
        while child.running() and time.monotonic() < ends:
            time.sleep(0.02)
    assert note.read_text() == gpus


def test_up_starts_one_worker_of_each_role_on_one_gpu(settings: Settings) -> None:
    started = [arguments for _, arguments in up.parts(settings) if arguments[0] == "worker"]
    assert started == [["worker", role, "--gpus", "1"] for role in ("train", "render")]


def test_a_worker_without_a_gpu_works_on_the_cpu(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device(settings.device) == torch.device("cpu")
