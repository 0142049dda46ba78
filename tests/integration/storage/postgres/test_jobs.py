"""On PostgreSQL."""

from tests.unit.storage.test_jobs import *  # noqa: F403
