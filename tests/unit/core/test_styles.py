import json
import os

import pytest

from core.bases import WITHOUT_HELP, modes_of
from core.errors import UserError
from core.settings import Settings
from core.styles import catalogue, find_adapter, find_style, offered, read_style, style_folders
from core.words import Mode

PLAIN = 'name = "{name}"\ntitle = "{title}"\nprompt = "a sketch of {{subject}}"\n'


@pytest.fixture
def settings(tmp_path):
    made = Settings(_env_file=None, var_dir=tmp_path, base_model=str(tmp_path / "base"))
    made.styles.mkdir()
    return made


def write(settings, name, text="", title="Mine"):
    path = settings.styles / f"{name}.toml"
    path.write_text(PLAIN.format(name=name, title=title) + text)
    return path


def test_an_operators_style_is_offered_beside_the_shipped_ones_at_once(settings):
    before = set(offered(settings))
    assert before == set(catalogue())
    path = write(settings, "mine")
    assert set(offered(settings)) - before == {"mine"}
    path.write_text(PLAIN.format(name="mine", title="Renamed"))
    os.utime(path, (1, 1))
    assert find_style(settings, "mine").title == "Renamed"
    path.unlink()
    with pytest.raises(UserError, match="No such style"):
        find_style(settings, "mine")


def test_an_operators_style_replaces_a_shipped_one_of_its_name(settings):
    write(settings, "neon", title="Our neon")
    assert find_style(settings, "neon").title == "Our neon"


def test_a_style_adapter_lies_beside_its_style(settings):
    path = write(settings, "inked", 'mode = "stacked"\nstyle_adapter = "ink"\n')
    with pytest.raises(ValueError, match=r"inked\.toml: there is no ink\.safetensors"):
        read_style(path)
    (settings.styles / "ink.safetensors").write_bytes(b"weights")
    os.utime(path, (2, 2))
    assert find_style(settings, "inked").style_adapter == "ink"
    assert find_adapter(settings, "ink") == settings.styles / "ink.safetensors"
    with pytest.raises(UserError, match="No such style adapter"):
        find_adapter(settings, "other")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('mode = "hologram"', "mode"),
        ('mode = "stacked"', "needs a style_adapter"),
        ('style_adapter = "../secrets"', "style_adapter"),
        ("lora_scale = 9", "lora_scale"),
        ("colour = 1", "colour"),
        ("title = ", "Invalid value"),
    ],
)
def test_a_style_that_cannot_be_used_names_its_file_and_why(settings, text, why):
    path = write(settings, "bad", text + "\n")
    with pytest.raises(ValueError, match=rf"(?s)bad\.toml.*{why}"):
        read_style(path)
    assert set(offered(settings)) == set(catalogue())  # left out, and the others stay


def test_a_prompt_without_its_subject_is_refused(settings):
    path = settings.styles / "bad.toml"
    path.write_text('name = "bad"\ntitle = "Bad"\nprompt = "a sketch"\n')
    with pytest.raises(ValueError, match="subject"):
        read_style(path)


def test_every_shipped_style_can_be_read(settings):
    folders = style_folders(Settings(_env_file=None, var_dir=settings.var_dir))
    paths = [path for folder in folders for path in sorted(folder.glob("*.toml"))]
    assert len({read_style(path).name for path in paths}) == len(paths)


def test_only_what_the_base_model_can_render_is_offered(settings):
    write(settings, "posed", 'mode = "pose"\n')
    write(settings, "photographed", 'mode = "reference"\n')
    write(settings, "theirs", 'bases = ["black-forest-labs/FLUX.1-dev"]\n')
    assert set(offered(settings)) == set(catalogue())
    with_control = Settings(_env_file=None, var_dir=settings.var_dir, base_model=settings.base_model, controlnet="some/control")
    assert set(offered(with_control)) - set(catalogue()) == {"posed"}


def test_modes_come_from_the_folder_or_from_what_is_known_of_a_hub_id(settings, tmp_path):
    hub = Settings(_env_file=None, base_model="black-forest-labs/FLUX.1-Kontext-dev")
    assert Mode.REFERENCE in modes_of(hub)
    assert Mode.REFERENCE not in modes_of(Settings(_env_file=None, base_model="black-forest-labs/FLUX.1-dev"))
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "likeness.json").write_text('{"modes": ["text_to_image"]}')
    assert modes_of(Settings(_env_file=None, base_model=str(tmp_path / "base"))) == {Mode.TEXT_TO_IMAGE}


def test_modes_of_a_folder_that_says_nothing_come_from_its_pipeline(tmp_path):
    for pipeline, expected in (("Flux2KleinPipeline", {Mode.TEXT_TO_IMAGE, Mode.REFERENCE, Mode.STACKED}), ("FluxPipeline", WITHOUT_HELP)):
        folder = tmp_path / pipeline
        folder.mkdir()
        (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
        assert modes_of(Settings(_env_file=None, base_model=str(folder))) == expected


def test_the_miniature_renders_from_a_reference():
    assert Mode.REFERENCE in modes_of(Settings(_env_file=None))
