import pytest
import torch

from core.errors import UserError
from diffusion import devices
from diffusion.devices import pick_device


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that says it has one; nothing is put on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.usefixtures("with_gpu")
@pytest.mark.parametrize(
    ("setting", "picked"), [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("cpu", "cpu")], ids=lambda value: value
)
def test_a_process_alone(setting: str, picked: str) -> None:
    assert pick_device(setting) == torch.device(picked)


@pytest.mark.usefixtures("with_gpu")
def test_a_launcher_that_was_told_to_use_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert pick_device("auto") == torch.device("cpu")
    assert pick_device("cuda:0") == torch.device("cuda", 0)


def test_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    for setting, type_ in {"cuda": "device/no-gpu", "cuda:1": "device/no-gpu", "toaster": "device/unknown"}.items():
        with pytest.raises(UserError) as refused:
            pick_device(setting)
        assert refused.value.type == type_


@pytest.mark.parametrize(("asked", "cores", "threads"), [(0, 1, 1), (0, 64, 3), (2, 1, 2)])
def test_tensor_work_takes_no_more_threads_than_there_are_cores(
    monkeypatch: pytest.MonkeyPatch, asked: int, cores: int, threads: int
) -> None:
    """Of three that torch would take; who asks for a number gets it."""
    taken = [3]
    monkeypatch.setattr(devices, "usable_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: taken[-1])
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    devices.use_threads(asked)
    assert taken[-1] == threads and len(taken) == 1 + (threads != 3)
