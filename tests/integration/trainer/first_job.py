"""Run by a test in a fresh interpreter: warm-up in one thread, the first job in another, at the same time."""

from __future__ import annotations

import io

from PIL import Image

from core.settings import Settings
from core.words import JobKind, PhotoVerdict, new_id
from storage import jobs, keys, subjects
from storage.tables import Account, Photo, Portrait, Subject, Training
from storage.wiring import Storage


def order(storage: Storage, kind: str) -> str:
    account = Account(id=new_id("acc"), email="ada@example.com")
    with storage.db.session() as session:
        session.add(account)
        session.flush()
        if kind == "portrait":
            params = {"mode": "text_to_image", "num_inference_steps": 1}
            target = Portrait(id=new_id("por"), account_id=account.id, prompt="a cat", seed=1, count=1, params=params)
            session.add(target)
            session.flush()
            return jobs.create(session, account.id, JobKind.PORTRAIT, target.id).id
        subject = subjects.create(session, account.id, "Miso", "cat", "I agree.")
        session.add_all(_photo(storage, subject, number) for number in range(9))
        training = Training(id=new_id("trn"), account_id=account.id, subject_id=subject.id, trigger_token="zokzex", seed=1)
        training.base_model, training.recipe = storage.settings.base_model, {"validation_images": 1}
        session.add(training)
        session.flush()
        return jobs.create(session, account.id, JobKind.TRAINING, training.id).id


def _photo(storage: Storage, subject: Subject, number: int) -> Photo:
    photo_id, data = new_id("pho"), io.BytesIO()
    Image.linear_gradient("L").rotate(number * 40).resize((64, 64)).convert("RGB").save(data, "PNG")
    key = keys.photo(subject.account_id, subject.id, photo_id, "png")
    storage.objects.put(key, data.getvalue())
    photo = Photo(id=photo_id, account_id=subject.account_id, subject_id=subject.id, filename=f"{number}.png", object_key=key)
    photo.thumb_key, photo.dhash, photo.width, photo.height, photo.size_bytes = key, "0" * 16, 64, 64, len(data.getvalue())
    photo.sha256, photo.verdict, photo.reasons, photo.measures = f"{number:064x}", PhotoVerdict.GOOD, [], {}
    return photo


def race(settings: Settings, storage: Storage, job_id: str, kind: str) -> str:
    """What Celery's child does: it starts to warm up, and the message is already there."""
    if kind == "training":
        from trainer.worker import TrainerState, run_job

        state = TrainerState(storage)
        state.start()
        return run_job(state, job_id)
    from inference.worker import RenderChild

    child = RenderChild(settings, storage=storage)
    child.start()
    return child.run(job_id)
