import json

import numpy as np
import pytest

from core.errors import UserError
from inference.engine import Engine
from inference.requests import RenderRequest
from inference.slot import read_adapter
from lab.evaluate import TRIGGER_TOKEN, StageClock, evaluate_subject, split_photos
from tests.unit.lab.conftest import photo


@pytest.fixture(scope="module")
def evaluation(bench, pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    photos = [photo(seed) for seed in range(9)]
    first = evaluate_subject(bench, photos, "cat", folder / "a", seeds=(0, 1), pictures=pictures)
    other = evaluate_subject(bench, photos[::-1], "cat", folder / "b", pictures=pictures, foreign=first.runs[0].fitted.adapter)
    return first, other, folder


def test_the_report_is_json_and_says_where_it_was_measured(evaluation):
    report = json.loads(json.dumps(evaluation[0].report))
    assert report["subject"] == {"kind": "cat", "class_word": "cat", "learned": 6, "held_out": 3}
    assert set(report["likeness"]) >= {"base", "adapter", "real", "normalised", "p10", "low", "high"}
    assert set(report["prompt_fidelity"]) == {"base", "adapter", "ratio"}
    assert report["encoders"]["identity"].split("@")[0].endswith("/dino")
    assert report["base_model"]["fingerprint"]
    assert report["hardware"]["cores"] >= 1
    assert report["memory"]["resident_gib"] > 0.1


def test_one_run_a_seed_with_its_stages(evaluation):
    runs = evaluation[0].report["runs"]
    assert [run["seed"] for run in runs] == [0, 1]
    assert set(runs[0]["seconds"]) >= {"curate", "caption", "encode", "fit", "select"}
    assert evaluation[0].report["seconds"]["training"] == pytest.approx(np.mean([sum(run["seconds"].values()) for run in runs]), abs=0.1)


def test_base_and_adapter_are_compared_from_the_same_prompts_and_seeds(evaluation, bench, pictures):
    first = evaluation[0]
    bare = Engine(bench.base).render(RenderRequest("an oil painting of a cat", 1000, num_inference_steps=2))[0]
    assert np.array_equal(np.asarray(first.base.images[1]), np.asarray(bare))
    engine = Engine(bench.base)
    request = RenderRequest(f"an oil painting of {TRIGGER_TOKEN} cat", 1000, num_inference_steps=2)
    with_adapter = engine.render(request, first.runs[1].fitted.adapter)[0]
    engine.slot.clear()
    assert np.array_equal(np.asarray(first.runs[1].judged.images[1]), np.asarray(with_adapter))


def test_swapping_back_is_checked_and_the_base_is_left_bare(evaluation, bench):
    assert evaluation[0].report["swap_back_identical"] is True
    assert not [name for name, _ in bench.base.transformer.named_parameters() if "lora" in name]


def test_a_foreign_adapter_is_measured_where_one_is_given(evaluation):
    assert evaluation[0].report["foreign"] is None
    assert set(evaluation[1].report["foreign"]) == {"likeness", "normalised"}


def test_the_adapters_stay_as_files_that_load_again(evaluation, bench):
    path = evaluation[2] / "a" / "seed-1" / "adapter.safetensors"
    kept = evaluation[0].runs[1].fitted.adapter
    assert read_adapter(bench.base, path, "again").state.keys() == kept.state.keys()


def test_held_out_photos_are_not_learned_from(bench):
    photos = [photo(seed) for seed in range(9)]
    split = split_photos(bench, photos, 3)
    learned, held_out = ({image.tobytes() for image in images} for images in (split.learned, split.held_out))
    assert (len(learned), len(held_out)) == (6, 3)
    assert not learned & held_out
    assert {image.tobytes() for image in split_photos(bench, photos, 3).held_out} == held_out


def test_a_repeated_photo_cannot_be_both_learned_and_held_out(bench):
    with pytest.raises(UserError, match="6 of 12 photos are usable"):
        split_photos(bench, [photo(seed % 6) for seed in range(12)], 3)


def test_the_clock_adds_up_stages_and_passes_progress_on():
    seen = []
    clock = StageClock(seen.append)
    for stage in ("fit", "fit", "select", "fit"):
        clock({"stage": stage})
    assert set(clock.stop()) == {"fit", "select"}
    assert len(seen) == 4
