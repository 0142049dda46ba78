from __future__ import annotations

import pytest

from api.rendering import style_sample
from core.styles import catalogue


@pytest.mark.parametrize("name", list(catalogue()))
def test_every_shipped_style_shows_a_picture_of_itself(name: str) -> None:
    address = style_sample(name)
    assert address and address.startswith(f"/static/style-{name}.webp?v=")


def test_an_operators_own_style_needs_none() -> None:
    assert style_sample("my-own") is None
