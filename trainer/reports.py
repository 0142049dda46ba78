"""What a fit tells whoever watches: steps with their loss and the time that is left, measured."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class StepReport:
    """After ``step`` of ``total`` steps: the mean loss of the last steps and the seconds left, measured."""

    step: int
    total: int
    loss: float
    eta_s: float


class StepClock:
    """Measures steps: the ETA follows the machine's present speed, the loss is smoothed over about ten steps."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.seconds: float | None = None
        self.loss: float | None = None

    def tick(self, steps: int = 1) -> None:
        """So many steps were done since the last tick."""
        now = time.monotonic()
        self.seconds = _smooth(self.seconds, (now - self.last) / steps)
        self.last = now

    def report(self, step: int, total: int, loss: float) -> StepReport:
        self.loss = _smooth(self.loss, loss)
        return StepReport(step, total, round(self.loss, 5), round((self.seconds or 0.0) * (total - step), 1))


def _smooth(average: float | None, value: float, weight: float = 0.1) -> float:
    return value if average is None else average + weight * (value - average)
