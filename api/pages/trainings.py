"""A training to watch."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from api import views
from api.auth import SignedIn
from api.pages.common import new_router, see
from api.rendering import render
from api.state import Shared
from core.words import JobKind, TrainingStage
from storage import subjects, trainings, watching

router = new_router()

STAGES = {
    TrainingStage.CURATE: "Looking through the photos",
    TrainingStage.CAPTION: "Describing each scene",
    TrainingStage.ENCODE: "Preparing them for the model",
    TrainingStage.FIT: "Learning the likeness",
    TrainingStage.SELECT: "Choosing the best version",
    TrainingStage.STORE: "Storing the adapter",
}


@router.get("/trainings/{training_id}")
def show(request: Request, training_id: str, state: Shared, caller: SignedIn) -> Response:
    with state.storage.db.reader() as session:
        training, job = trainings.get(session, caller.account_id, training_id)
        subject = subjects.get(session, caller.account_id, training.subject_id)
        typical = watching.typical_seconds(session, JobKind.TRAINING)
    facts = views.training(training, job)
    return render(request, "training.html", training=facts, subject=subject, typical=typical, stages=list(STAGES.items()))


@router.post("/trainings/{training_id}/cancel")
def cancel(training_id: str, state: Shared, caller: SignedIn) -> Response:
    with state.storage.db.session() as session:
        trainings.cancel(session, caller.account_id, training_id)
    return see(f"/trainings/{training_id}")
