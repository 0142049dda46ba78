"""``GET /metrics`` for Prometheus, behind ``LIKENESS_METRICS_TOKEN``. Without a token it does not exist."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.metrics import allowed, registry_of
from api.state import Shared
from core.errors import UserError, not_found

router = APIRouter(include_in_schema=False)


@router.get("/metrics")
def metrics(state: Shared, authorization: Annotated[str, Header()] = "") -> Response:
    if not state.settings.metrics_token.get_secret_value():
        raise not_found("page")
    if not allowed(state.settings, authorization):
        raise UserError("metrics/unauthorized", "Not for everyone", "Send Authorization: Bearer with LIKENESS_METRICS_TOKEN.", status=401)
    return Response(generate_latest(registry_of(state.storage)), media_type=CONTENT_TYPE_LATEST)
