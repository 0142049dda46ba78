import io
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from sqlalchemy import select

from diffusion.provenance import read_marks
from inference.pipeline import progress_of, run_portrait
from inference.requests import RenderRequest
from storage import jobs, keys, tables


def run(state, job_id):
    return jobs.run(state.storage, job_id, "render-1", partial(run_portrait, state))


def job(state, job_id):
    with state.storage.db.reader() as session:
        return session.get(tables.Job, job_id)


def images(state, portrait_id):
    with state.storage.db.reader() as session:
        query = select(tables.PortraitImage).where(tables.PortraitImage.portrait_id == portrait_id).order_by(tables.PortraitImage.n)
        return list(session.scalars(query))


def stored(state, row):
    return Image.open(io.BytesIO(state.storage.objects.get(row.object_key)))


def card(state):
    photos = [Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)) for seed in range(3)]
    reference = state.encoder.embed(photos).mean(0).tolist()
    scores = {"likeness": {"base": -1.0, "real": 1.0}}
    return {"reference_embedding": reference, "scores": scores, "encoders": {"identity": state.encoder.id}}


def test_a_portrait_becomes_marked_scored_pictures_in_seed_order(state, shelf, make_adapter):
    adapter = shelf.put(1, card(state))
    portrait_id, job_id = shelf.portrait(adapter, count=2)
    assert run(state, job_id) == "succeeded"

    rows = images(state, portrait_id)
    assert [(row.n, row.seed, row.width, row.height) for row in rows] == [(0, 11, 32, 32), (1, 12, 32, 32)]
    assert all(0 < row.likeness < 1 for row in rows)
    assert read_marks(state.storage.objects.get(rows[0].object_key))["digital_source_type"].endswith("/trainedAlgorithmicMedia")
    request = RenderRequest("a photo of ohwx cat", seed=11, count=2, num_inference_steps=2)
    for row, expected in zip(rows, state.engine.render(request, make_adapter(1)), strict=True):
        assert np.array_equal(np.asarray(stored(state, row)), np.asarray(expected))


def test_what_the_operator_sees_of_it(state, shelf):
    state.settings.gpu_price_per_hour = 3600.0
    _, job_id = shelf.portrait(shelf.put(1, card(state)))
    run(state, job_id)
    metrics = job(state, job_id).metrics
    assert set(metrics["seconds"]) == {"load", "render", "score", "store"}
    assert metrics["adapter_from"] == "store"
    assert metrics["cost"] == pytest.approx(metrics["device_seconds"], abs=1e-3)
    assert (metrics["currency"], metrics["images"], metrics["device"]) == ("USD", 1, "cpu")


def test_without_an_adapter_the_bare_base_renders_unscored(state, shelf):
    bare = state.engine.render(RenderRequest("a cat", seed=11, num_inference_steps=2))
    run(state, shelf.portrait(shelf.put(1))[1])
    portrait_id, job_id = shelf.portrait(None, prompt="a cat")
    assert run(state, job_id) == "succeeded"
    (row,) = images(state, portrait_id)
    assert row.likeness is None
    assert np.array_equal(np.asarray(stored(state, row)), np.asarray(bare[0]))


def test_a_repeated_attempt_gives_the_same_pictures(state, shelf):
    adapter = shelf.put(1)
    first, second = shelf.portrait(adapter), shelf.portrait(adapter)
    for _, job_id in (first, second):
        run(state, job_id)
    assert images(state, first[0])[0].sha256 == images(state, second[0])[0].sha256


def test_an_erased_adapter_fails_with_its_reason(state, shelf):
    adapter = shelf.put(1)
    portrait_id, job_id = shelf.portrait(adapter)
    with state.storage.db.session() as session:
        session.add(tables.Tombstone(target_id=adapter.id))
    assert run(state, job_id) == "failed"
    assert "erased" in job(state, job_id).error["message"]
    assert images(state, portrait_id) == []


def test_a_mode_that_is_not_there_fails_with_what_to_do(state, shelf):
    _, job_id = shelf.portrait(shelf.put(1), mode="pose")
    assert run(state, job_id) == "failed"
    assert "text_to_image" in job(state, job_id).error["message"]


def test_canceling_stops_at_a_step_and_stores_nothing(state, shelf):
    portrait_id, job_id = shelf.portrait(shelf.put(1), count=8, num_inference_steps=100)

    def work(lease):
        def cancel_then_check(done, total):
            with state.storage.db.session() as session:
                jobs.request_cancel(session, session.get(tables.Job, job_id))
            lease._looked_at = 0.0  # look now and not in a second
            progress_of(lease)(done, total)

        state.engine.render(RenderRequest("a cat", num_inference_steps=100), None, cancel_then_check)

    assert jobs.run(state.storage, job_id, "render-1", work) == "canceled"
    assert images(state, portrait_id) == []


def test_progress_counts_steps_over_all_pictures(state, shelf):
    _, job_id = shelf.portrait(shelf.put(1), count=2)
    seen = []

    def work(lease):
        lease.progress = lambda **snapshot: seen.append(snapshot)
        run_portrait(state, lease)

    jobs.run(state.storage, job_id, "render-1", work)
    steps = [snapshot for snapshot in seen if snapshot.get("eta_s") is not None]
    assert [(snapshot["step"], snapshot["total"]) for snapshot in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert steps[-1]["eta_s"] == 0
    assert [snapshot["stage"] for snapshot in seen if "stage" in snapshot] == ["load", "render", "score", "store"]


def photo_row(state, name, side, seed):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    key = keys.photo("acc_1", "sub_1", name, "png")
    state.storage.objects.put(key, buffer.getvalue())
    facts = {"sha256": "0" * 64, "dhash": "0" * 16, "width": side, "height": side, "size_bytes": 1, "verdict": "good", "reasons": []}
    row = tables.Photo(id=name, account_id="acc_1", subject_id="sub_1", filename=f"{name}.png", object_key=key, thumb_key=key, **facts)
    with state.storage.db.session() as session:
        session.add(row)
    return Image.fromarray(pixels)


def test_a_reference_style_draws_from_the_named_photo_or_the_largest(state, shelf):
    small, large = photo_row(state, "pho_small", 32, 1), photo_row(state, "pho_large", 64, 2)
    adapter = shelf.put(1)
    for params, photo in (({}, large), ({"reference_photo": "pho_small"}, small)):
        portrait_id, job_id = shelf.portrait(adapter, mode="reference", **params)
        assert run(state, job_id) == "succeeded"
        request = RenderRequest("a photo of ohwx cat", seed=11, num_inference_steps=2, mode="reference", reference=photo)
        expected = state.engine.render(request, shelf.make_adapter(1))[0]
        assert np.array_equal(np.asarray(stored(state, images(state, portrait_id)[0])), np.asarray(expected))


def test_the_sweep_takes_an_erased_adapter_off_the_transformer(state, shelf):
    adapter = shelf.put(1)
    run(state, shelf.portrait(adapter)[1])
    assert state.engine.held == {adapter.id}
    shelf.erase(adapter)
    state.sweep()
    assert state.engine.held == set()
    assert not [name for name, _ in state.base.transformer.named_parameters() if "lora" in name]
    assert torch.isfinite(next(state.base.transformer.parameters())).all()


def test_previews_reach_those_who_watch_and_do_not_stay(state, shelf, monkeypatch):
    monkeypatch.setattr("inference.previews.EVERY_S", 0.0)
    seen = []
    _, job_id = shelf.portrait(shelf.put(1), num_inference_steps=4)

    def work(lease):
        keep = lease.progress
        lease.progress = lambda **snapshot: (seen.append(snapshot.get("preview", "nothing")), keep(**snapshot))
        run_portrait(state, lease)

    assert jobs.run(state.storage, job_id, "render-1", work) == "succeeded"
    previews = [preview for preview in seen if preview != "nothing"]
    assert len(previews) == 4 and all(preview.startswith("data:image/jpeg;base64,") for preview in previews[:3])
    assert previews[3] is None
    assert job(state, job_id).progress["preview"] is None
