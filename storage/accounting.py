"""What a job cost: how long it held its worker's device, and that at the operator's price. One rule for every kind of job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.settings import Settings


def device_seconds(stage_seconds: Mapping[str, float]) -> float:
    """Of a job's stages, over all its attempts: a worker owns one device and does one job at a time."""
    return float(sum(stage_seconds.values()))


def bill(settings: Settings, device: str, seconds: float) -> dict[str, Any]:
    """For a job's metrics: ``device``, ``device_seconds`` and, if the operator states a price, ``cost`` with its ``currency``."""
    figures: dict[str, Any] = {"device": device, "device_seconds": round(seconds, 3)}
    if settings.gpu_price_per_hour:
        figures |= {"cost": round(cost_of(settings, seconds), 6), "currency": settings.currency}
    return figures


def cost_of(settings: Settings, seconds: float) -> float:
    return seconds / 3600 * settings.gpu_price_per_hour
