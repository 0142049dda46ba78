"""On PostgreSQL."""

from tests.unit.storage.test_scheduler import *  # noqa: F403
