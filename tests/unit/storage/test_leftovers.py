"""What attempts left behind goes once their job has ended, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sqlalchemy import update

from storage import keys, leftovers
from storage.adapters import adapter_id_of
from storage.tables import Adapter, Job, PortraitImage, Training, now
from storage.wiring import Storage
from tests.unit.storage.conftest import World


def end(storage: Storage, target_id: str, state: str, fence: int, ago: timedelta = timedelta(hours=1)) -> None:
    ended = {"state": state, "fence": fence, "completed_at": now() - ago, "lease_until": None}
    with storage.db.session() as session:
        session.execute(update(Job).where(Job.target_id == target_id).values(**ended))


def attempt(storage: Storage, training: Training, fence: int) -> list[str]:
    """What a worker that died just before the end leaves."""
    adapter_id = adapter_id_of(training.id, fence)
    stored = [
        keys.training_attempt(training.account_id, training.subject_id, training.id, fence) + "state.safetensors",
        keys.adapter_weights(training.account_id, adapter_id),
        keys.adapter_card(training.account_id, adapter_id),
    ]
    for key in stored:
        storage.objects.put(key, b"x")
    return stored


def test_a_training_keeps_the_adapter_of_its_row_alone(storage: Storage, world: World) -> None:
    training, _ = world.training(world.subject(world.account()))
    first, second = (attempt(storage, training, fence) for fence in (1, 2))
    row = Adapter(id=adapter_id_of(training.id, 2), account_id=training.account_id, subject_id=training.subject_id, training_id=training.id)
    row.object_key, row.sha256, row.size_bytes, row.base_model, row.rank, row.alpha = second[1], "0" * 64, 1, "miniature", 32, 32.0
    row.trigger_token, row.class_word = "zokzex", "cat"
    with storage.db.session() as session:
        session.add(row)
    end(storage, training.id, "succeeded", fence=2)
    assert leftovers.sweep_ended(storage) == 4
    assert sorted(storage.objects.list("accounts/")) == sorted(second[1:])
    assert not any(storage.objects.exists(key) for key in first)
    assert leftovers.sweep_ended(storage) == 0


def test_a_training_that_failed_leaves_nothing(storage: Storage, world: World) -> None:
    training, _ = world.training(world.subject(world.account()))
    for fence in (1, 2, 3):
        attempt(storage, training, fence)
    end(storage, training.id, "failed", fence=3)
    leftovers.sweep_ended(storage)
    assert list(storage.objects.list("accounts/")) == []


def test_a_portrait_keeps_the_pictures_of_its_rows(storage: Storage, world: World) -> None:
    adapter = world.adapter(world.training(world.subject(world.account()))[0])
    portrait = world.portrait(adapter)
    late = keys.portrait_image(adapter.account_id, portrait.id, 0, fence=2)
    storage.objects.put(late, b"another attempt's")
    end(storage, portrait.id, "succeeded", fence=2)
    assert leftovers.sweep_ended(storage) == 1
    with storage.db.reader() as session:
        (image,) = session.query(PortraitImage).filter_by(portrait_id=portrait.id)
    assert storage.objects.exists(image.object_key) and not storage.objects.exists(late)


def test_a_job_that_runs_or_has_just_ended_is_left_alone(storage: Storage, world: World) -> None:
    training, _ = world.training(world.subject(world.account()))
    attempt(storage, training, 1)
    assert leftovers.sweep_ended(storage) == 0
    end(storage, training.id, "failed", fence=1, ago=timedelta(seconds=storage.settings.sweep_after_s - 5))
    assert leftovers.sweep_ended(storage) == 0
    soon = replace(storage, settings=storage.settings.model_copy(update={"sweep_after_s": 1.0}))
    assert leftovers.sweep_ended(soon) == 3
