import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import UserError
from core.settings import Settings
from inference.upscale import open_upscaler, require_room, sharp_lanczos
from miniature import world
from miniature.teach.accept import to_pictures

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def drawn():
    """The same picture at full size and at half of it."""
    scene = world.Scene(framing="close-up")
    large = to_pictures(world.render("cat", world.identity_factors("cat", torch.tensor([world.UNSEEN_SEED_START])), [scene], size=256))[0]
    return large, large.resize((128, 128), Image.Resampling.BOX)


def error(one, other):
    return float(np.mean((np.asarray(one, np.float32) - np.asarray(other, np.float32)) ** 2))


def test_it_is_nearer_to_the_true_picture_than_plain_enlargement(drawn):
    large, small = drawn
    bicubic, lanczos = (small.resize(large.size, how) for how in (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS))
    ours = sharp_lanczos(small)
    assert ours.size == large.size
    assert error(ours, large) < min(error(bicubic, large), error(lanczos, large))


def test_edges_get_no_halo():
    step = Image.fromarray(np.repeat(np.where(np.arange(32) < 16, 60, 200).astype(np.uint8)[None, :, None], 32, 0).repeat(3, 2))
    enlarged = np.asarray(sharp_lanczos(step))
    plain = np.asarray(step.resize((64, 64), Image.Resampling.LANCZOS))
    assert (enlarged.min(), enlarged.max()) == (plain.min(), plain.max())


def test_a_picture_has_its_limit():
    require_room(Image.new("RGB", (2048, 16)))
    with pytest.raises(UserError, match="2048"):
        require_room(Image.new("RGB", (2064, 16)))


def test_lanczos_is_the_default_and_pickled_weights_are_refused(tmp_path):
    assert open_upscaler(Settings(_env_file=None), CPU) is sharp_lanczos
    with pytest.raises(UserError, match="convert them"):
        open_upscaler(Settings(_env_file=None, upscaler=str(tmp_path / "model.pth")), CPU)


def test_a_network_by_path_enlarges_twice(tmp_path):
    pytest.importorskip("spandrel")
    from safetensors.torch import save_file
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(0)
    network = Compact(num_feat=8, num_conv=2, upscale=4)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    upscaler = open_upscaler(Settings(_env_file=None, upscaler=str(tmp_path / "model.safetensors")), CPU)
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8))
    enlarged = upscaler(small)
    assert enlarged.size == (32, 48)
    assert not np.array_equal(np.asarray(enlarged), np.asarray(sharp_lanczos(small)))
