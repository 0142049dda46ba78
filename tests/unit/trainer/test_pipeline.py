import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open

from core.words import TrainingStage
from diffusion import lora
from diffusion.provenance import TRAINED_ALGORITHMIC_MEDIA, read_marks
from tests.unit.trainer.conftest import stripes
from tests.unit.trainer.fakes import FakeIdentity, photo
from trainer.bench import Bench
from trainer.captions import SubjectWords
from trainer.curation import curate
from trainer.pipeline import TrainedAdapter, hold_out, train_on_photos
from trainer.recipe import Recipe
from trainer.selection import prompts_for

PHOTOS = [stripes(n, (64, 64)) for n in range(9)]


def fit_photos(bench: Bench, folder: Path, on_progress: Any = lambda snapshot: None, seed: int = 1) -> TrainedAdapter:
    recipe = Recipe.for_run(len(PHOTOS), bench.base, {"validation_images": 2})
    words = SubjectWords("zokzex", "cat")
    return train_on_photos(bench, PHOTOS, "cat", words, recipe, folder, on_progress, seed=seed, base_name="tiny")


@pytest.fixture(scope="session")
def trained(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedAdapter, list[dict[str, Any]]]:
    seen: list[dict[str, Any]] = []
    return fit_photos(bench, tmp_path_factory.mktemp("run"), seen.append), seen


def test_the_stages_come_in_order_with_every_step(trained) -> None:
    _, seen = trained
    stages = list(dict.fromkeys(snapshot["stage"] for snapshot in seen))
    assert stages == [stage for stage in TrainingStage if stage != TrainingStage.STORE]
    steps = [snapshot["step"] for snapshot in seen if "loss" in snapshot]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_the_card_says_what_was_done_and_how_good_it_is(trained, bench: Bench) -> None:
    adapter, _ = trained
    card = json.loads((adapter.path.parent / "card.json").read_text())
    assert card == adapter.card
    assert (card["base_model"], card["trigger_token"], card["class_word"]) == ("tiny", "zokzex", "cat")
    assert card["base_fingerprint"] == bench.base.fingerprint
    assert card["data"]["photos"] + card["data"]["held_out"] == len(PHOTOS)
    assert set(card["scores"]["likeness"]) == {"base", "adapter", "real", "normalised"}
    assert [entry["step"] for entry in card["scores"]["candidates"]] == [3, 4, 6]
    assert card["encoders"]["identity"] == bench.identity.id


def test_a_few_of_the_chosen_checkpoints_pictures_lie_beside_the_adapter(trained, bench: Bench) -> None:
    adapter, _ = trained
    samples = adapter.card["samples"]
    assert [sample["file"] for sample in samples] == ["sample-0.png", "sample-1.png"]
    assert all("zokzex cat" in sample["prompt"] for sample in samples)
    data = adapter.path.with_name("sample-1.png").read_bytes()
    assert read_marks(data)["digital_source_type"] == TRAINED_ALGORITHMIC_MEDIA
    transformer = bench.base.transformer
    recipe = Recipe.for_run(len(PHOTOS), bench.base, {"validation_images": 2})
    state, _ = lora.read(adapter.path)
    lora.load(transformer, state)
    try:
        again = bench.render(prompts_for("zokzex cat", 2), recipe)
    finally:
        lora.detach(transformer)
    with Image.open(io.BytesIO(data)) as kept:
        assert kept.convert("RGB").tobytes() == again[1].tobytes()


def test_no_path_of_the_machine_is_in_the_file_or_the_card(trained, tmp_path: Path) -> None:
    adapter, _ = trained
    with safe_open(adapter.path, framework="pt") as file:
        header = json.dumps(file.metadata())
    assert str(adapter.path.parent.parent.parent) not in header + json.dumps(adapter.card)


def test_the_adapter_is_valid_and_the_base_is_bare_again(trained, bench: Bench) -> None:
    adapter, _ = trained
    transformer = bench.base.transformer
    _, metadata = lora.read(adapter.path, transformer, bench.base.family.lora_allowlist(transformer))
    assert metadata["trigger_token"] == "zokzex"
    assert not [name for name, _ in transformer.named_modules() if "lora" in name]


def test_the_same_photos_and_seed_give_the_same_weights(trained, bench: Bench, tmp_path: Path) -> None:
    adapter, _ = trained
    again = fit_photos(bench, tmp_path)
    assert again.card["weights"]["sha256"] == adapter.card["weights"]["sha256"]
    assert fit_photos(bench, tmp_path / "other", seed=2).card["weights"]["sha256"] != adapter.card["weights"]["sha256"]


def test_held_out_photos_are_never_learned_from() -> None:
    curated = curate([photo(n) for n in range(12)], FakeIdentity(), 1)
    learned, reals = hold_out(curated, 3, seed=4)
    assert len(learned) == len(reals.photos) == 9 and reals.held_out.shape[0] == 3
    assert hold_out(curated, 3, seed=4)[0] == learned != hold_out(curated, 3, seed=5)[0]


def test_of_a_small_set_every_photo_is_learned_from() -> None:
    curated = curate([photo(n) for n in range(7)], FakeIdentity(), 1)
    learned, reals = hold_out(curated, 2, seed=0)
    assert len(learned) == 7 and reals.held_out.shape[0] == 0
