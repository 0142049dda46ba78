from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.logging_kept import logs_as_they_were


@pytest.fixture(autouse=True)
def own_logs() -> Iterator[None]:
    """A command sets up logs for its whole process."""
    with logs_as_they_were():
        yield
