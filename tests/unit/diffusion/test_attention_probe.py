import json
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend

from diffusion import attention_probe, devices
from diffusion.attention_probe import cudnn_is_sound

GPU = torch.device("cuda")


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr("torch.backends.cudnn.is_available", lambda: True)
    monkeypatch.setattr("torch.backends.cudnn.version", lambda: 91900)


@pytest.mark.parametrize(
    ("program", "sound"), [("import sys; sys.exit(0)", True), ("raise SystemExit('NaN')", False), ("import os; os.abort()", False)]
)
def test_a_child_answers_once_and_its_death_is_an_answer(
    hopper: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, sound: bool
) -> None:
    calls: list[list[str]] = []
    real = attention_probe.subprocess.run

    def run(command: list[str], **options: object) -> object:
        calls.append(command)
        return real([command[0], "-c", program], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(attention_probe.subprocess, "run", run)
    answers = tmp_path / "cache" / "attention.json"
    assert cudnn_is_sound(GPU, 24, 128, [1152, 4608], answers) is sound
    assert cudnn_is_sound(GPU, 24, 128, [1152, 4608], answers) is sound
    assert len(calls) == 1 and calls[0][-4:] == ["24", "128", "1152", "4608"]
    assert list(json.loads(answers.read_text()).values()) == [sound]
    cudnn_is_sound(GPU, 24, 128, [1136], answers)
    assert len(calls) == 2  # other shapes are another question


def test_without_a_gpu_it_is_not_asked() -> None:
    assert not cudnn_is_sound(torch.device("cpu"), 24, 128, [1152])


def test_training_uses_cudnn_only_where_it_was_found_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SDPBackend.CUDNN_ATTENTION not in devices.training_kernels()
    monkeypatch.setattr(devices, "_cudnn_is_sound", True)
    assert devices.training_kernels()[0] is SDPBackend.CUDNN_ATTENTION
