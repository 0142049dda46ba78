"""What is settled is not looked at again, and is not lost either."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from core import garbage


class Link:
    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_later_collections_look_only_at_what_came_since() -> None:
    kept = [Link() for _ in range(1000)]
    garbage.settle()
    assert gc.get_freeze_count() > len(kept)
    assert not any(isinstance(held, Link) for held in gc.get_objects())
    new = weakref.ref(Link())
    gc.collect()
    assert new() is None


def test_what_became_garbage_since_goes_the_next_time() -> None:
    link = Link()
    seen = weakref.ref(link)
    garbage.settle()
    del link
    gc.collect()
    assert seen() is not None
    garbage.settle()
    assert seen() is None
