"""On PostgreSQL."""

from tests.unit.storage.test_paging import *  # noqa: F403
