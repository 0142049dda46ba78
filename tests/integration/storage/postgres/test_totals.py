"""On PostgreSQL."""

from tests.unit.storage.test_totals import *  # noqa: F403
