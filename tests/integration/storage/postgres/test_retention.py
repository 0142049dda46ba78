"""On PostgreSQL."""

from tests.unit.storage.test_retention import *  # noqa: F403
