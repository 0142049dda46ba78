"""What a portrait may ask for besides a plain render: style adapters, the best of several, enlargement, refusals, signatures."""

import io

import numpy as np
import pytest
from PIL import Image

from diffusion import lora
from diffusion.credentials import credentials_of, read_credentials
from inference.reading import read_adapter
from inference.requests import RenderRequest
from inference.safety import Safety
from inference.upscale import sharp_lanczos
from storage import tables
from tests.unit.diffusion.certificates import write_chain
from tests.unit.inference.test_pipeline import card, images, job, run, stored


@pytest.fixture
def style_file(state, make_adapter):
    return lora.save(state.settings.styles / "ink.safetensors", make_adapter(9).state, {})


def test_a_style_adapter_of_the_operator_is_worn_beside_the_subjects(state, shelf, style_file):
    adapter = shelf.put(1)
    portrait_id, job_id = shelf.portrait(adapter, mode="stacked", style_adapter="ink", style_scale=0.6)
    assert run(state, job_id) == "succeeded"
    request = RenderRequest("a photo of ohwx cat", 11, num_inference_steps=2, options={"style_scale": 0.6})
    expected = state.engine.render(request, shelf.make_adapter(1), style=read_adapter(state.base, style_file, "again"))
    assert np.array_equal(np.asarray(stored(state, images(state, portrait_id)[0])), np.asarray(expected[0]))


def test_a_replaced_style_adapter_is_read_again(state, make_adapter, style_file):
    first = state.styles.load("ink")
    assert state.styles.load("ink") is first
    lora.save(style_file, make_adapter(8).state, {})
    assert state.styles.load("ink").id != first.id


def test_a_missing_style_adapter_fails_with_its_reason(state, shelf):
    _, job_id = shelf.portrait(shelf.put(1), mode="stacked", style_adapter="gone")
    assert run(state, job_id) == "failed"
    assert "No such style adapter" in job(state, job_id).error["message"]


def test_the_best_of_several_comes_first_with_its_own_seed(state, shelf):
    adapter = shelf.put(1, card(state))
    plain_id, plain = shelf.portrait(adapter, count=4)
    best_id, best = shelf.portrait(adapter, count=4, best_of=4)
    assert [run(state, job_id) for job_id in (plain, best)] == ["succeeded"] * 2
    in_order, by_rank = images(state, plain_id), images(state, best_id)
    assert [row.seed for row in in_order] == [11, 12, 13, 14]
    assert [row.likeness for row in by_rank] == sorted((row.likeness for row in in_order), reverse=True)
    assert {row.seed: row.sha256 for row in by_rank} == {row.seed: row.sha256 for row in in_order}


def test_a_chosen_picture_is_enlarged_scored_and_marked(state, shelf):
    adapter = shelf.put(1, card(state))
    source_id, first = shelf.portrait(adapter, count=2)
    run(state, first)
    portrait_id, job_id = shelf.portrait(adapter, mode="upscale", source={"portrait": source_id, "n": 1})
    assert run(state, job_id) == "succeeded"
    (row,) = images(state, portrait_id)
    assert (row.width, row.height) == (64, 64)
    assert row.likeness is not None
    expected = sharp_lanczos(stored(state, images(state, source_id)[1]))
    assert np.array_equal(np.asarray(stored(state, row)), np.asarray(expected))


def test_nothing_is_enlarged_that_is_gone_or_somebody_elses(state, shelf):
    adapter = shelf.put(1)
    source_id, first = shelf.portrait(adapter)
    run(state, first)
    with state.storage.db.session() as session:
        session.add(tables.Account(id="acc_2", email="other@example.org"))
        session.flush()
        session.get(tables.PortraitImage, images(state, source_id)[0].id).account_id = "acc_2"
    for source in ({"portrait": source_id, "n": 0}, {"portrait": source_id, "n": 5}):
        _, job_id = shelf.portrait(adapter, mode="upscale", source=source)
        assert run(state, job_id) == "failed"
        assert "erased" in job(state, job_id).error["message"]


def refusing(*seeds_in_order):
    """A classifier that refuses the pictures at these places."""
    return Safety(frozenset({"nsfw"}), 0.5, pictures=lambda found: [{"nsfw": float(n in seeds_in_order)} for n in range(len(found))])


def test_a_refused_picture_is_not_stored_and_the_others_are(state, shelf):
    state.safety = refusing(1)
    portrait_id, job_id = shelf.portrait(shelf.put(1), count=3)
    assert run(state, job_id) == "succeeded"
    rows = images(state, portrait_id)
    assert [(row.n, row.seed) for row in rows] == [(0, 11), (1, 13)]
    assert job(state, job_id).metrics["refused"] == 1
    assert len(list(state.storage.objects.list("accounts/acc_1/portraits/"))) == 2


def test_a_portrait_of_which_nothing_may_be_kept_fails_with_the_reason(state, shelf):
    state.safety = refusing(0)
    portrait_id, job_id = shelf.portrait(shelf.put(1))
    assert run(state, job_id) == "failed"
    assert "safety check" in job(state, job_id).error["message"]
    assert images(state, portrait_id) == list(state.storage.objects.list("accounts/acc_1/portraits/")) == []


def test_a_refused_prompt_is_not_rendered(state, shelf):
    state.safety = Safety(frozenset({"nsfw"}), 0.5, prompts=lambda found: [{"nsfw": 1.0}])
    _, job_id = shelf.portrait(shelf.put(1))
    assert run(state, job_id) == "failed"
    assert "other words" in job(state, job_id).error["message"]
    assert "render" not in job(state, job_id).metrics.get("seconds", {})


def test_pictures_are_signed_where_a_certificate_is_set(state, shelf, tmp_path):
    state.settings.c2pa_certificate, state.settings.c2pa_key = write_chain(tmp_path)
    state.credentials = credentials_of(state.settings)
    portrait_id, job_id = shelf.portrait(shelf.put(1))
    assert run(state, job_id) == "succeeded"
    png = state.storage.objects.get(images(state, portrait_id)[0].object_key)
    assert read_credentials(png, "image/png")["validation"] == "Valid"
    assert Image.open(io.BytesIO(png)).size == (32, 32)
