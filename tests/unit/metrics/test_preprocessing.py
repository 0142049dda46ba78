import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from metrics.preprocessing import Preprocessing, read_preprocessing

DINOV2 = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": {"shortest_edge": 256},
}


def noise(width, height, mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("size", [(300, 400), (640, 480), (256, 256)])
def test_agrees_with_the_processor_that_the_encoder_was_published_with(size):
    theirs = BitImageProcessorPil(**DINOV2)(noise(*size), return_tensors="pt")["pixel_values"]
    ours = Preprocessing()([noise(*size)])
    assert ours.shape == (1, 3, 224, 224)
    assert (ours - theirs).abs().mean() < 0.02  # a centre crop may round to another pixel row


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_takes_pictures_of_any_mode(mode):
    assert Preprocessing(32, 32)([noise(40, 50, mode)]).shape == (1, 3, 32, 32)


def test_normalises_by_mean_and_deviation():
    grey = Image.new("RGB", (32, 32), (51, 51, 51))
    pixels = Preprocessing(32, 32, mean=(0.2, 0.1, 0.0), std=(1.0, 0.5, 2.0))([grey])
    assert torch.allclose(pixels.mean((2, 3)), torch.tensor([[0.0, 0.2, 0.1]]), atol=1e-6)


@pytest.mark.parametrize(
    ("config", "short_side", "crop"),
    [
        (DINOV2, 256, 224),
        ({"size": 224, "crop_size": 224}, 224, 224),
        ({"size": {"height": 98, "width": 98}, "do_center_crop": False}, 98, 98),
    ],
)
def test_reads_every_way_in_which_sizes_are_published(tmp_path, config, short_side, crop):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    read = read_preprocessing(tmp_path, Preprocessing(1, 1))
    assert (read.short_side, read.crop) == (short_side, crop)


def test_an_encoder_without_a_config_keeps_the_default(tmp_path):
    assert read_preprocessing(tmp_path, Preprocessing(64, 64)) == Preprocessing(64, 64)
