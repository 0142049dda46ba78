"""Trainings that run at the same time on one base: each in a thread of its own, in turns but for the fit, done in common passes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from diffusion.loading import BaseModel
from trainer.fit import Fitting, fit_together
from trainer.member import FitOrder
from trainer.seats import Seats


@dataclass(eq=False)
class _Waiting:
    """An order that has come to its fit, and how it ended."""

    order: FitOrder
    between_steps: Callable[[], None]
    fitting: Fitting | None = None


@dataclass
class Company:
    """``size`` trainings, each of which must :meth:`leave` at its end, whatever happens: the others wait for it before they fit."""

    size: int = 1
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _changed: threading.Condition = field(default_factory=threading.Condition, repr=False)
    _waiting: list[_Waiting] = field(default_factory=list, repr=False)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One training at a time uses the base model."""
        with self._lock:
            yield

    def leave(self) -> None:
        """One training fewer to wait for."""
        with self._changed:
            self.size -= 1
            self._changed.notify_all()

    def fit(self, base: BaseModel, order: FitOrder, seats: Seats, between_steps: Callable[[], None] = lambda: None) -> Fitting:
        """Waits until every training of the company is here or has left; then one of them fits all. Raises what ended this one's fit."""
        mine = _Waiting(order, between_steps)
        with self._changed:
            self._waiting.append(mine)
            self._changed.notify_all()
            self._changed.wait_for(lambda: mine.fitting is not None or self._complete(mine))
        if mine.fitting is None:
            self._fit_all(base, seats)
        assert mine.fitting is not None
        if mine.fitting.error:
            raise mine.fitting.error
        return mine.fitting

    def _complete(self, mine: _Waiting) -> bool:
        """Whether all are here; the first of them does the work."""
        return len(self._waiting) >= self.size and self._waiting[0] is mine

    def _fit_all(self, base: BaseModel, seats: Seats) -> None:
        together = list(self._waiting)
        groups: dict[Hashable, list[_Waiting]] = {}
        for one in together:
            groups.setdefault(_layout(one.order), []).append(one)
        for group in groups.values():
            self._fit_group(base, seats, group)
        with self._changed:
            self._waiting = [one for one in self._waiting if one not in together]
            self._changed.notify_all()

    def _fit_group(self, base: BaseModel, seats: Seats, group: list[_Waiting]) -> None:
        try:
            with self.turn():
                orders = [one.order for one in group]
                fittings = fit_together(base, orders, between_steps=group[0].between_steps, seats=seats)
        except Exception as error:  # of the whole pass: each of them must hear of it
            fittings = [Fitting(error=error) for _ in group]
        for one, fitting in zip(group, fittings, strict=True):
            one.fitting = fitting


class _Alone(Company):
    """A training of its own: nobody to wait for."""

    def fit(self, base: BaseModel, order: FitOrder, seats: Seats, between_steps: Callable[[], None] = lambda: None) -> Fitting:
        (fitting,) = fit_together(base, [order], between_steps=between_steps, seats=seats)
        if fitting.error:
            raise fitting.error
        return fitting


ALONE = _Alone()


def _layout(order: FitOrder) -> Hashable:
    """Orders of one layout can share passes."""
    recipe = order.recipe
    return recipe.rank, recipe.target_set, recipe.gradient_accumulation_steps
