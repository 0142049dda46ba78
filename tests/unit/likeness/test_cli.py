from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from core.settings import Settings
from likeness.cli import app
from storage.migrations import upgrade

COMMANDS = ["up", "api", "worker", "scheduler", "migrate", "doctor", "train", "render", "export", "evaluate"]
runner = CliRunner()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert len(result.output) > 100


def test_a_taken_port_is_one_line_with_what_to_do(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LIKENESS_VAR_DIR", str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = runner.invoke(app, ["up", "--port", str(taken.getsockname()[1])])
    assert result.exit_code == 1
    assert "--port" in result.output


def test_the_doctor_names_what_is_missing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LIKENESS_VAR_DIR", str(tmp_path))
    upgrade(Settings().database)
    result = runner.invoke(app, ["doctor"])
    assert result.exit_code == 1
    lines = {line.split()[1]: line for line in result.output.splitlines() if line.strip()}
    assert lines["broker"].startswith("FAIL") and "likeness up" in lines["broker"]
    assert lines["database"].startswith("ok") and lines["migrations"].startswith("ok")


def test_training_on_an_empty_folder_says_so(tmp_path: Path) -> None:
    result = runner.invoke(app, ["train", "--photos", str(tmp_path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "No photos found" in result.output


def test_an_adapter_is_written_in_another_programs_layout(tmp_path: Path) -> None:
    name = "transformer.transformer_blocks.0.attn.to_out.0"
    save_file({f"{name}.lora_A.weight": torch.ones(2, 4), f"{name}.lora_B.weight": torch.ones(4, 2)}, tmp_path / "mine.safetensors")
    result = runner.invoke(app, ["export", str(tmp_path / "mine.safetensors"), "--format", "kohya"])
    assert result.exit_code == 0, result.output
    written = load_file(tmp_path / "mine.kohya.safetensors")
    assert set(written) == {f"lora_unet_double_blocks_0_img_attn_proj.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha")}
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    refused = runner.invoke(app, ["export", str(tmp_path / "broken.safetensors"), "--format", "kohya"])
    assert refused.exit_code == 1 and "not a whole safetensors file" in " ".join(refused.output.split())
