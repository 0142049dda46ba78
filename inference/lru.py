"""A cache bounded in bytes: the least recently used goes first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ByteLru(Generic[Value]):
    """Not safe for threads by itself: its owner locks. What is larger than the bound is not kept at all."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self._items: OrderedDict[str, tuple[Value, int]] = OrderedDict()

    def get(self, key: str) -> Value | None:
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return self._items[key][0]

    def put(self, key: str, value: Value, nbytes: int) -> None:
        self.drop(key)
        if nbytes > self.limit:
            return
        self._items[key] = (value, nbytes)
        self.used += nbytes
        while self.used > self.limit:
            self.drop(next(iter(self._items)))

    def drop(self, key: str) -> None:
        if key in self._items:
            self.used -= self._items.pop(key)[1]

    def keys(self) -> list[str]:
        """Least recently used first."""
        return list(self._items)
