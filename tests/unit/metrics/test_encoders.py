import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image

from metrics import encoders
from metrics.encoders import load_identity_encoder, load_text_image_encoder
from tests.tiny_encoders import SIDE, build_tiny_clip, build_tiny_dino, build_tiny_resnet


def pictures(count, side=40):
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 256, (side, side + 8, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    return load_identity_encoder(build_tiny_dino(tmp_path_factory.mktemp("world") / "dino"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_text_image_encoder(build_tiny_clip(tmp_path_factory.mktemp("world") / "clip"))


def test_identity_vectors_are_unit_and_do_not_depend_on_the_batch(dino):
    images = pictures(encoders.BATCH + 3)
    together = dino.embed(images)
    assert together.shape == (len(images), 32)
    assert torch.allclose(together.norm(dim=1), torch.ones(len(images)), atol=1e-5)
    alone = torch.cat([dino.embed([image]) for image in images])
    assert torch.allclose(together, alone, atol=1e-5)


def test_no_pictures_give_an_empty_matrix(dino, clip):
    assert dino.embed([]).shape == (0, 32)
    assert clip.embed_images([]).shape == clip.embed_texts([]).shape == (0, 16)


def test_the_pool_is_what_the_folder_says(tmp_path):
    images = pictures(2)
    cls, mean = (load_identity_encoder(build_tiny_dino(tmp_path / pool, pool=pool)) for pool in ("cls", "mean"))
    tokens = cls.model(pixel_values=cls.preprocessing(images)).last_hidden_state
    for encoder, pooled in ((cls, tokens[:, 0]), (mean, tokens[:, 1:].mean(1))):
        assert torch.allclose(encoder.embed(images), torch.nn.functional.normalize(pooled, dim=1), atol=1e-5)


def test_a_classifiers_outputs_are_the_vector_where_the_folder_says_head(tmp_path):
    images = pictures(3)
    encoder = load_identity_encoder(build_tiny_resnet(tmp_path / "resnet", width=8))
    outputs = encoder.model(pixel_values=encoder.preprocessing(images)).logits
    assert torch.allclose(encoder.embed(images), torch.nn.functional.normalize(outputs, dim=1), atol=1e-5)
    assert encoder.embed([]).shape == (0, 8)


def test_an_unknown_pool_is_refused(tmp_path):
    with pytest.raises(ValueError, match="pool"):
        load_identity_encoder(build_tiny_dino(tmp_path / "dino", pool="max"))


def test_the_size_is_the_folders_own_and_the_normalisation_that_of_its_processor(tmp_path):
    folder = build_tiny_dino(tmp_path / "dino")
    config = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 2, "size": {"height": 99, "width": 99}, "do_center_crop": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    read = load_identity_encoder(folder).preprocessing
    assert (read.short_side, read.crop, read.mean, read.std, read.resample) == (SIDE, SIDE, (0.5,) * 3, (0.25,) * 3, 2)


def test_weights_kept_in_bf16_are_judged_in_fp32(tmp_path):
    folder = build_tiny_dino(tmp_path / "dino")
    load_identity_encoder(folder).model.to(torch.bfloat16).save_pretrained(folder)
    assert load_identity_encoder(folder).model.dtype == torch.float32


def test_the_id_names_the_weights(tmp_path):
    ids = {load_identity_encoder(build_tiny_dino(tmp_path / "dino", seed=seed)).id for seed in (0, 0, 1)}
    assert len(ids) == 2
    assert all(name.startswith(f"{tmp_path.name}/dino@") for name in ids)


def test_similarity_pairs_picture_and_text(clip):
    images, texts = pictures(2), ["a photo of a cat", "an oil painting of a dog"]
    expected = (clip.embed_images(images) @ clip.embed_texts(texts).T).diagonal()
    assert torch.allclose(clip.similarity(images, texts), expected, atol=1e-6)


def test_text_features_are_those_of_the_model_itself(clip):
    tokens = clip.tokenizer(["a cat"], return_tensors="pt")
    theirs = clip.model.get_text_features(**tokens).pooler_output
    assert torch.allclose(clip.embed_texts(["a cat"]), torch.nn.functional.normalize(theirs, dim=1), atol=1e-5)


def test_a_long_text_is_cut_not_refused(clip):
    assert clip.embed_texts(["cat " * 500]).shape == (1, 16)


def test_a_vocabulary_is_embedded_once(clip, monkeypatch):
    lists = [["a cat", "a dog"], ["a dog", "a cat"], ["a fox"]]
    plain, asked = [clip.embed_texts(texts) for texts in lists], []

    def embed(texts):
        asked.append(list(texts))
        return plain[lists.index(list(texts))]

    monkeypatch.setattr(encoders, "KEPT", 2)
    monkeypatch.setattr(clip, "embed_texts", embed)
    monkeypatch.setattr(clip, "_kept", OrderedDict())
    for turn in (0, 1, 0, 2, 0, 1):  # the third list takes the place of the second, which was asked for longest ago
        assert torch.equal(clip.embed_kept(lists[turn]), plain[turn])
    assert asked == [lists[0], lists[1], lists[2], lists[1]]
