"""What ships beside the base: the ControlNet for poses and the style adapter fit the miniature, and the service offers them."""

from core.bases import modes_of
from core.settings import Settings
from core.styles import find_adapter, offered
from core.words import Mode
from diffusion.blank import check_adapter
from diffusion.control import add_control
from diffusion.loading import load_base

SETTINGS = Settings(_env_file=None)
MEGABYTE = 2**20


def test_the_miniature_takes_poses_with_its_own_controlnet():
    assert Mode.POSE in modes_of(SETTINGS)
    base = load_base(SETTINGS.base_model_path, precision="fp32", device="cpu")
    control = add_control(base, SETTINGS.controlnet_path)
    assert control.mode is None
    assert any(layer.weight.abs().max() > 0 for layer in control.model.controlnet_blocks), "an untaught ControlNet has no effect"


def test_the_style_adapter_fits_the_miniature_and_is_small():
    for style in offered(SETTINGS).values():
        if style.style_adapter:
            path = find_adapter(SETTINGS, style.style_adapter)
            check_adapter(SETTINGS.base_model_path, path)
            assert path.stat().st_size <= 2 * MEGABYTE


def test_styles_of_every_mode_are_offered():
    modes = {style.mode for style in offered(SETTINGS).values()}
    assert {Mode.TEXT_TO_IMAGE, Mode.TWO_PASS, Mode.STACKED, Mode.POSE} <= modes
