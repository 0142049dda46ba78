from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from core.settings import Settings
from core.styles import offered
from diffusion import lora
from diffusion.blank import blank_transformer
from diffusion.families import family_of
from likeness.cli_styles import app
from tests.tiny import build_tiny_flux

runner = CliRunner()
STYLE = 'name = "inked"\ntitle = "Inked"\nprompt = "ink of {subject}"\nmode = "stacked"\nstyle_adapter = "ink"\n'


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    base = build_tiny_flux(tmp_path / "base")
    monkeypatch.setenv("LIKENESS_VAR_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("LIKENESS_BASE_MODEL", str(base))
    return Settings(_env_file=None)


@pytest.fixture
def style(tmp_path: Path, settings: Settings) -> Path:
    """A style with an adapter of the tiny base."""
    folder = Path(settings.base_model_path)
    transformer = blank_transformer(folder)
    module = family_of(folder).lora_modules(transformer, "attention")[0]
    layer = transformer.get_submodule(module)
    state = {f"transformer.{module}.lora_A.weight": torch.ones(2, layer.in_features)}
    state[f"transformer.{module}.lora_B.weight"] = torch.ones(layer.out_features, 2)
    lora.save(tmp_path / "mine" / "ink.safetensors", state, {})
    (tmp_path / "mine" / "inked.toml").write_text(STYLE)
    return tmp_path / "mine" / "inked.toml"


def test_a_style_with_its_adapter_is_added_listed_and_removed(settings: Settings, style: Path) -> None:
    assert runner.invoke(app, ["add", str(style)]).exit_code == 0
    assert offered(settings)["inked"].style_adapter == "ink"
    assert "inked" in runner.invoke(app, ["list"]).output
    assert runner.invoke(app, ["remove", "inked"]).exit_code == 0
    assert "inked" not in offered(settings)
    assert not list(settings.styles.iterdir())


def test_an_adapter_that_another_style_names_stays(settings: Settings, style: Path) -> None:
    second = style.with_name("second.toml")
    second.write_text(STYLE.replace('"inked"', '"second"'))
    for file in (style, second):
        runner.invoke(app, ["add", str(file)])
    runner.invoke(app, ["remove", "inked"])
    assert offered(settings)["second"].style_adapter == "ink"


def test_what_cannot_be_used_is_refused_and_nothing_is_kept(settings: Settings, style: Path) -> None:
    foreign = {"transformer.proj_out.lora_A.weight": torch.ones(2, 4), "transformer.proj_out.lora_B.weight": torch.ones(4, 2)}
    for spoil, why in (
        (lambda: style.write_text(STYLE + "colour = 1\n"), "colour"),
        (lambda: style.write_text(STYLE.replace('mode = "stacked"', 'mode = "pose"')), "cannot render mode pose"),
        (lambda: (style.write_text(STYLE), lora.save(style.with_name("ink.safetensors"), foreign, {})), "not allowed here"),
        (lambda: style.with_name("ink.safetensors").unlink(), "there is no ink.safetensors"),
    ):
        spoil()
        refused = runner.invoke(app, ["add", str(style)])
        assert refused.exit_code == 1
        assert why in " ".join(refused.output.split())
    assert not settings.styles.exists()


def test_a_shipped_style_cannot_be_removed(settings: Settings) -> None:
    assert "none of your own" in runner.invoke(app, ["remove", "neon"]).output
