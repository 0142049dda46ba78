import json
from pathlib import Path

import pytest
import torch

from benchmarks import gradients


def test_errors_are_relative_and_tell_bias_from_noise() -> None:
    reference = [(torch.ones(2, 4), torch.ones(2, 3)), (torch.ones(2, 4), torch.ones(2, 3))]
    noisy = [(torch.ones(2, 4) * 1.5, torch.ones(2, 3)), (torch.ones(2, 4) * 0.5, torch.ones(2, 3) * 2)]
    assert gradients.errors(noisy, reference) == pytest.approx({"median": 0.5, "max": 0.5, "of_mean": 0.0, "prediction": 0.5})
    biased = [(torch.ones(2, 4) * 1.5, torch.ones(2, 3))] * 2
    assert gradients.errors(biased, reference)["of_mean"] == pytest.approx(0.5)


def test_sharing_a_pass_costs_nothing_and_bf16_little(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gradients.json"
    gradients.main(["--steps", "1", "--device", "cpu", "--ways", "float32, four", "--json", str(path)])
    result = json.loads(path.read_text())
    (row,) = result["rows"]
    assert row["median"] < 1e-4 and row["max"] < 1e-4 and row["prediction"] < 1e-4
    assert result["hardware"]["device"].startswith("cpu") and result["weights"] == "taught"
    assert "| float32, four in one pass |" in capsys.readouterr().out
